#pragma once

#include <torchfeed/plugin/convert/block.h>

#include <vector>

namespace torchfeed::convert {

/// Whether `split_byte_channels` can do it: bytes become float32, 2 to 4 channels that lie beside each other become
/// planes, as in images, and the processor has AVX2. oneDNN's reorder moves these one by one, at a third of the speed.
bool can_split_byte_channels(const Block& block);

/// to = from * scale + shift, rounded once. One number each for all channels, or one a channel. `block` is merged.
void split_byte_channels(const Block& block, const std::vector<float>& scale, const std::vector<float>& shift,
                         const void* from, float* to);

}  // namespace torchfeed::convert
