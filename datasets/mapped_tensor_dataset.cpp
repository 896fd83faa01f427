#include <torchfeed/datasets/mapped_tensor_dataset.h>
#include <torchfeed/datasets/npy/npy_array.h>
#include <torchfeed/plugin/batch_memory.h>

#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace torchfeed::datasets {
namespace {

/// An array as rows of equal bytes.
class Rows {
 public:
  explicit Rows(const std::string& path) : array_(path, FileAccess::kRandom), type_(array_.scalar_type()) {
    if (array_.shape().empty()) throw DataError(path + ": expected an array with a first dimension, got a scalar");
    row_bytes_ = size() == 0 ? 0 : array_.bytes().size() / size();
  }

  std::size_t size() const { return static_cast<std::size_t>(array_.shape().front()); }
  const NpyArray& array() const { return array_; }

  torch::Tensor gather(c10::ArrayRef<std::size_t> indices) const {
    std::vector<std::int64_t> sizes = array_.shape();
    sizes.front() = static_cast<std::int64_t>(indices.size());
    torch::Tensor batch = empty_batch(sizes, type_);
    if (row_bytes_ == 0) return batch;
    const std::uint8_t* rows = array_.bytes().data();
    auto* out = static_cast<std::uint8_t*>(batch.data_ptr());
    for (std::size_t i = 0; i < indices.size(); ++i) {
      std::memcpy(out + i * row_bytes_, rows + indices[i] * row_bytes_, row_bytes_);
    }
    return batch;
  }

 private:
  NpyArray array_;
  at::ScalarType type_;
  std::size_t row_bytes_ = 0;
};

}  // namespace

struct MappedTensorDataset::Files {
  Rows x;
  Rows y;
};

MappedTensorDataset::MappedTensorDataset(const std::string& x_path, const std::string& y_path)
    : files_(std::make_shared<const Files>(Files{Rows(x_path), Rows(y_path)})) {
  if (files_->x.size() == files_->y.size()) return;
  throw DataError(y_path + ": expected " + std::to_string(files_->x.size()) + " rows as in " + x_path + ", got " +
                  std::to_string(files_->y.size()));
}

torch::data::Example<> MappedTensorDataset::get_batch(c10::ArrayRef<std::size_t> indices) {
  const std::size_t samples = files_->x.size();
  for (const std::size_t index : indices) {
    TORCH_CHECK_INDEX(index < samples, "MappedTensorDataset: expected an index below the size ", samples, ", got ",
                      index);
  }
  torch::Tensor data = files_->x.gather(indices);
  return {std::move(data), files_->y.gather(indices)};
}

torch::optional<std::size_t> MappedTensorDataset::size() const { return files_->x.size(); }

torch::Tensor MappedTensorDataset::data() const { return files_->x.array().tensor(); }

torch::Tensor MappedTensorDataset::targets() const { return files_->y.array().tensor(); }

}  // namespace torchfeed::datasets
