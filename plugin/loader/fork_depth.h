#pragma once

#include <cstdint>

namespace torchfeed::loader {

/// Counts the fork()s above this process: a child has another number than its parent. What a child inherits of a
/// loader (tensors, the loader itself) must not touch the parent's shared state. Cheaper than a getpid() each time.
std::uint32_t fork_depth() noexcept;

}  // namespace torchfeed::loader
