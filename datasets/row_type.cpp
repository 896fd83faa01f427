#include <torchfeed/datasets/row_type.h>

namespace torchfeed::datasets {

const char* name_of(RowType type) {
  switch (type) {
    case RowType::kFloat16:
      return "float16";
    case RowType::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

std::optional<RowType> row_type(std::string_view name) {
  if (name == "float32" || name == "f32") return RowType::kFloat32;
  if (name == "float16" || name == "f16") return RowType::kFloat16;
  if (name == "bfloat16" || name == "bf16") return RowType::kBFloat16;
  return std::nullopt;
}

const char* npy_type_of(RowType type) {
  switch (type) {
    case RowType::kFloat16:
      return "f2";
    case RowType::kBFloat16:
      return "u2";
    default:
      return "f4";
  }
}

}  // namespace torchfeed::datasets
