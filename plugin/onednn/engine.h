#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include <cstddef>

namespace torchfeed::onednn {

/// The CPU. Never destroyed, as threads may compute while the process ends.
const dnnl::engine& engine();

/// The calling thread's own.
dnnl::stream& stream();

/// Memory of the calling thread, at least that large, until its next call: for primitives that are made with
/// scratchpad_mode::user, as the library's own belongs to the thread that made them.
void* scratchpad(std::size_t bytes);

}  // namespace torchfeed::onednn
