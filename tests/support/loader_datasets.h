#pragma once

#include <torchfeed/plugin/data_loader.h>

#include <torch/data/datasets/base.h>
#include <torch/data/samplers.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace torchfeed::testing {

using Sequential = torch::data::samplers::SequentialSampler;

/// A batch-native dataset of `size` samples whose batch is whatever a function makes of the indices.
template <typename Batch>
class FunctionDataset
    : public torch::data::datasets::BatchDataset<FunctionDataset<Batch>, Batch, std::vector<std::size_t>> {
 public:
  FunctionDataset(std::size_t size, std::function<Batch(const std::vector<std::size_t>&)> make)
      : size_(size), make_(std::move(make)) {}

  Batch get_batch(std::vector<std::size_t> indices) override { return make_(indices); }
  torch::optional<std::size_t> size() const override { return size_; }

 private:
  std::size_t size_;
  std::function<Batch(const std::vector<std::size_t>&)> make_;
};

using TensorDataset = FunctionDataset<torch::Tensor>;

/// The indices themselves, as a batch [B] int64 in ordinary memory.
inline torch::Tensor indices_tensor(const std::vector<std::size_t>& indices) {
  auto tensor = torch::empty({static_cast<std::int64_t>(indices.size())}, torch::kInt64);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    tensor.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(indices[i]);
  }
  return tensor;
}

inline TensorDataset index_dataset(std::size_t size) { return {size, indices_tensor}; }

/// All batches of one epoch.
template <typename Loader>
std::vector<typename Loader::BatchType> one_epoch(Loader& loader) {
  std::vector<typename Loader::BatchType> batches;
  for (auto& batch : loader) {
    batches.push_back(batch);
  }
  return batches;
}

/// All elements of one epoch's int64 batches, in order.
template <typename Loader>
std::vector<std::int64_t> one_epoch_of_indices(Loader& loader) {
  std::vector<std::int64_t> indices;
  for (auto& batch : loader) {
    const auto* data = batch.template data_ptr<std::int64_t>();
    indices.insert(indices.end(), data, data + batch.numel());
  }
  return indices;
}

inline std::vector<std::int64_t> counting(std::int64_t size) {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < size; ++i) {
    indices.push_back(i);
  }
  return indices;
}

}  // namespace torchfeed::testing
