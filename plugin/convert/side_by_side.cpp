#include <torchfeed/plugin/convert/side_by_side.h>

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace torchfeed::convert {
namespace {

template <typename T>
void convert(std::int64_t count, float scale, float shift, const void* from, float* __restrict to) {
  const auto* __restrict in = static_cast<const T*>(from);
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(in[i]) * scale + shift;
}

using Loop = void (*)(std::int64_t count, float scale, float shift, const void* from, float* to);

Loop loop_of(at::ScalarType from) {
  switch (from) {
    case at::kByte:
      return convert<std::uint8_t>;
    case at::kChar:
      return convert<std::int8_t>;
    case at::kInt:
      return convert<std::int32_t>;
    case at::kFloat:
      return convert<float>;
    case at::kBFloat16:
      return convert<c10::BFloat16>;
    default:
      return nullptr;
  }
}

}  // namespace

bool can_convert_side_by_side(const Block& block) {
  return block.to == at::kFloat && block.channel < 0 && block.sizes.size() == 1 && block.from_strides[0] == 1 &&
         block.to_strides[0] == 1 && loop_of(block.from) != nullptr;
}

void convert_side_by_side(const Block& block, float scale, float shift, const void* from, float* to) {
  loop_of(block.from)(block.sizes[0], scale, shift, from, to);
}

}  // namespace torchfeed::convert
