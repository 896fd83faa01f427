#pragma once

#include <optional>
#include <string_view>

namespace torchfeed::datasets {

/// Type of the numbers in a converted directory.
enum class RowType {
  kFloat32,
  kFloat16,   ///< IEEE half: numbers above 65504, such as most volumes, do not fit.
  kBFloat16,  ///< The upper half of a float32, for which NumPy has no name: stored as '<u2'.
};

/// "float32", "float16", "bfloat16".
const char* name_of(RowType type);
/// The type of that name, or of f32, f16, bf16.
std::optional<RowType> row_type(std::string_view name);
/// How a .npy file's header calls it, after the byte order: "f4", "f2", "u2".
const char* npy_type_of(RowType type);

}  // namespace torchfeed::datasets
