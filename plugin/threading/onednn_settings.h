#pragma once

#include <optional>

namespace torchfeed::threading {

/// Settings of the oneDNN that LibTorch computes with, which hold for the whole process. Debian's LibTorch shares the
/// system's library; the official archives hide a oneDNN of their own inside libtorch_cpu, which cannot be reached: all
/// of these are empty or false then. The functions are looked up at run time, as the headers of one version say nothing
/// of the library that is loaded.

/// Primitives that are kept compiled.
std::optional<int> onednn_primitive_cache();
/// Sets the number, at least 0, and reads it back.
bool set_onednn_primitive_cache(int capacity);

/// How float32 may be rounded in between, by oneDNN's numbers (dnnl_fpmath_mode_t). From oneDNN 2.3 on.
std::optional<int> onednn_fpmath_mode();
/// Sets the mode for primitives that are made from now on, and reads it back.
bool set_onednn_fpmath_mode(int mode);

}  // namespace torchfeed::threading
