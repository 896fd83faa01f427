#pragma once

#include <torchfeed/plugin/convert/block.h>

namespace torchfeed::convert {

/// Whether `convert_side_by_side` can do it: bytes, int32, float32 or bfloat16 without gaps become float32 in the same
/// order, all by the same numbers, as ticks to prices. That is as fast as memory is; oneDNN's reorder takes half as
/// long again. `block` is merged.
bool can_convert_side_by_side(const Block& block);

/// to = from * scale + shift.
void convert_side_by_side(const Block& block, float scale, float shift, const void* from, float* to);

}  // namespace torchfeed::convert
