#pragma once

#include <torchfeed/plugin/convert/block_conversion.h>

#include <ATen/core/Tensor.h>

namespace torchfeed::convert {

/// The same as convert_with_onednn for any dtypes and strides: `to` = `from` * scale + shift, both of the same sizes,
/// with channels in dimension `channel` (-1 for none).
void convert_with_aten(const at::Tensor& from, const Affine& affine, int channel, const at::Tensor& to);

}  // namespace torchfeed::convert
