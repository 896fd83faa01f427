#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/npy/npy_array.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/version.h>

#include <string_view>
#include <utility>

namespace torchfeed::datasets {
namespace {

struct NamedType {
  std::string_view name;
  at::ScalarType type;
};

constexpr NamedType kTypes[] = {
    {"b1", at::kBool},
    {"u1", at::kByte},
    {"i1", at::kChar},
    {"i2", at::kShort},
    {"i4", at::kInt},
    {"i8", at::kLong},
    {"f2", at::kHalf},
    {"f4", at::kFloat},
    {"f8", at::kDouble},
    {"c8", at::ScalarType::ComplexFloat},
    {"c16", at::ScalarType::ComplexDouble},
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
    {"u2", at::ScalarType::UInt16},
    {"u4", at::ScalarType::UInt32},
    {"u8", at::ScalarType::UInt64},
#endif
};

}  // namespace

NpyArray::NpyArray(const std::string& path, FileAccess access)
    : path_(path),
      file_(std::make_shared<const MappedFile>(path, access)),
      header_(NpyHeader::parse(file_->bytes(), path)) {}

NpyArray::NpyArray(const OpenDirectory& directory, const std::string& name, FileAccess access)
    : path_(directory.path() + "/" + name),
      file_(std::make_shared<const MappedFile>(directory, name, access)),
      header_(NpyHeader::parse(file_->bytes(), path_)) {}

std::span<const std::uint8_t> NpyArray::bytes() const { return file_->bytes().subspan(header_.data_offset); }

at::ScalarType NpyArray::scalar_type() const {
  for (const auto& [name, type] : kTypes) {
    if (name == header_.type) return type;
  }
  throw DataError(path_ + ": LibTorch " TORCH_VERSION " has no tensors of '" + header_.type + "'");
}

at::Tensor NpyArray::tensor() const {
  const auto options = at::TensorOptions().dtype(scalar_type());
  if (header_.data_bytes == 0) return at::empty(header_.shape, options);
  auto* data = const_cast<std::uint8_t*>(bytes().data());
  return at::from_blob(
      data, header_.shape, [file = file_](void*) {}, options);
}

}  // namespace torchfeed::datasets
