#pragma once

#include <torchfeed/plugin/batch_converter.h>

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed::bench {

/// What it takes to make a sample.
enum class Workload {  // in the order of workload_names()
  kWindows,            ///< [50, 5] float32 of a table in memory, a get() each
  kWindowsBatch,       ///< the same, a whole batch at a time into the batch's memory
  kImages,             ///< [3, 224, 224] bytes to float, a get() each
  kImagesConverter,    ///< the same, a get() for the bytes and BatchConverter for a whole batch
  kBurn,               ///< 1 ms of computing
  kWait,               ///< 2 ms of waiting
  kTail,               ///< 0.5 ms of waiting, one in 160 takes 40 ms
  kNoop,               ///< nothing, a whole batch at a time
};

/// Samples of each dataset.
inline constexpr std::size_t kEndless = std::size_t{1} << 40;

/// By their names on the command line. Throws std::invalid_argument.
Workload workload_of(const std::string& name);
const std::string& name_of(Workload workload);
const std::vector<std::string>& workload_names();

/// Keeps one core busy with so much work as takes this long on a core of its own. Not until a time: on a core that is
/// shared it takes longer.
void compute_for(double milliseconds);

/// Whether making a sample is waiting, which takes no core.
bool is_waiting(Workload workload);

/// Batches of this size after which samples cost the same again.
std::size_t period_of(Workload workload, std::size_t batch_size);

/// Copies the windows of `indices` into `out`, which has room for them.
void gather_windows(const std::vector<std::size_t>& indices, float* out);

/// Room for a batch of windows.
std::vector<float> window_buffer(std::size_t batch_size);

/// Of kImagesConverter's samples.
Convert<std::vector<torch::data::TensorExample>> image_converter();

/// Samples one by one, without an end that anyone could reach. All instances share their data.
class Samples : public torch::data::datasets::Dataset<Samples, torch::data::TensorExample> {
 public:
  explicit Samples(Workload workload) : workload_(workload) {}

  torch::data::TensorExample get(std::size_t index) override;
  torch::optional<std::size_t> size() const override { return kEndless; }

 private:
  Workload workload_;
};

/// Batches at a time.
class Batches
    : public torch::data::datasets::BatchDataset<Batches, torch::data::TensorExample, std::vector<std::size_t>> {
 public:
  explicit Batches(Workload workload) : workload_(workload) {}

  torch::data::TensorExample get_batch(std::vector<std::size_t> indices) override;
  torch::optional<std::size_t> size() const override { return kEndless; }

 private:
  Workload workload_;
};

/// Whether `workload` is of Batches, else of Samples.
bool is_batch_native(Workload workload);

}  // namespace torchfeed::bench
