#pragma once

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed::bench {

/// What it takes to make a sample.
enum class Workload {
  kWindows,       ///< [50, 5] float32 of a table in memory, a get() each
  kWindowsBatch,  ///< the same, a whole batch at a time into the batch's memory
  kImages,        ///< [3, 224, 224] bytes to float, a get() each
  kBurn,          ///< 1 ms of computing
  kWait,          ///< 2 ms of waiting
  kTail,          ///< 0.5 ms of waiting, one in 160 takes 40 ms
  kNoop,          ///< nothing, a whole batch at a time
};

/// By their names on the command line. Throws std::invalid_argument.
Workload workload_of(const std::string& name);
const std::vector<std::string>& workload_names();

/// Keeps one core busy with so much work as takes this long on a core of its own. Not until a time: on a core that is
/// shared it takes longer.
void compute_for(double milliseconds);

/// Samples one by one. All instances share their data.
class Samples : public torch::data::datasets::Dataset<Samples, torch::data::TensorExample> {
 public:
  Samples(Workload workload, std::size_t size) : workload_(workload), size_(size) {}

  torch::data::TensorExample get(std::size_t index) override;
  torch::optional<std::size_t> size() const override { return size_; }

 private:
  Workload workload_;
  std::size_t size_;
};

/// Batches at a time.
class Batches
    : public torch::data::datasets::BatchDataset<Batches, torch::data::TensorExample, std::vector<std::size_t>> {
 public:
  Batches(Workload workload, std::size_t size) : workload_(workload), size_(size) {}

  torch::data::TensorExample get_batch(std::vector<std::size_t> indices) override;
  torch::optional<std::size_t> size() const override { return size_; }

 private:
  Workload workload_;
  std::size_t size_;
};

/// Whether `workload` is of Batches, else of Samples.
bool is_batch_native(Workload workload);

}  // namespace torchfeed::bench
