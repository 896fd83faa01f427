#pragma once

#include <torchfeed/plugin/data_loader.h>

#include <torch/data/datasets/base.h>
#include <torch/data/samplers.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::testing {

/// Who makes the batches.
struct Setting {
  int workers = 0;
  WorkerMode mode = WorkerMode::kProcess;
};

/// For tests' names: Inline, Processes2, Threads3.
inline std::string name_of(const Setting& setting) {
  if (setting.workers == 0) {
    return "Inline";
  }
  return (setting.mode == WorkerMode::kThread ? "Threads" : "Processes") + std::to_string(setting.workers);
}
inline void PrintTo(const Setting& setting, std::ostream* out) { *out << name_of(setting); }

inline DataLoaderOptions options_of(const Setting& setting, std::size_t batch_size) {
  return DataLoaderOptions(batch_size).num_workers(setting.workers).worker_mode(setting.mode);
}

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

/// All kinds of workers.
inline const std::vector<Setting> kSettings = {{0}, {1}, {2}, {5}, {1, WorkerMode::kThread}, {3, WorkerMode::kThread}};

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

/// What random augmentation in a dataset may use in every mode.
inline torch::Tensor generator_batch(const std::vector<std::size_t>& indices) {
  const auto size = static_cast<std::int64_t>(indices.size());
  return torch::cat(
      {torch::rand({size}, generator()), torch::randn({3}, generator()), indices_tensor(indices).to(torch::kFloat)});
}

/// The same with torch's default generator, which threads share with the trainer.
inline torch::Tensor random_batch(const std::vector<std::size_t>& indices) {
  return torch::cat({torch::rand({static_cast<std::int64_t>(indices.size())}), generator_batch(indices)});
}

/// Two epochs of random batches.
inline std::vector<torch::Tensor> random_epochs(const Setting& setting, std::uint64_t seed,
                                                torch::Tensor (*make)(const std::vector<std::size_t>&)) {
  auto loader = make_data_loader<Sequential>(TensorDataset(60, make), options_of(setting, 7).seed(seed));
  std::vector<torch::Tensor> batches;
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (auto& batch : one_epoch(*loader)) {
      batches.push_back(batch.clone());
    }
  }
  return batches;
}

}  // namespace torchfeed::testing
