#pragma once

#include <ATen/core/Tensor.h>
#include <torch/data/example.h>
#include <torch/data/transforms/base.h>
#include <torch/types.h>

#include <memory>
#include <utility>
#include <vector>

namespace torchfeed {

/// Where a batch has its channels.
enum class BatchLayout {
  kNoChannels,     ///< [B, ...], with one scale and one shift
  kChannelsFirst,  ///< [B, C, ...], as NCHW
  kChannelsLast,   ///< [B, ..., C], as NHWC; also the columns of [B, T, C]
};

/// Options of `BatchConverter`. Values that do not fit raise c10::Error with what was expected and got.
struct BatchConverterOptions {
  /// Dtype of the result: kFloat, kBFloat16, kHalf, kDouble, kInt, kChar or kByte. Integers are rounded to the nearest,
  /// ties to even, and held to the dtype's range. Default: kFloat.
  at::ScalarType dtype = at::kFloat;
  /// Each value becomes value * scale + shift: one number each for all channels, or one a channel. Finite. So bytes
  /// normalised by torchvision's Normalize(mean, stddev) have scale 1 / (255 * stddev) and shift -mean / stddev.
  /// Default: 1 and 0.
  std::vector<double> scale{1};
  std::vector<double> shift{0};
  /// Of the input, and of the result. Only both have channels, or none. Default: no channels.
  BatchLayout from = BatchLayout::kNoChannels;
  BatchLayout to = BatchLayout::kNoChannels;
};

/// Converts batches: dtype, scale and shift by channel, and layout at once, straight into the batch's memory (see
/// empty_batch). As a transform it also stacks the samples on the way:
///
///     dataset.map(BatchConverter({.scale = {1 / 255.}, .from = BatchLayout::kChannelsLast,
///                                 .to = BatchLayout::kChannelsFirst}))
///
/// takes samples [H, W, C] uint8 and gives batches [B, C, H, W] float32. A dataset that makes whole batches calls it in
/// get_batch instead, with a batch in ordinary memory.
///
/// From uint8, int8, int32, float32 and bfloat16 to all of these oneDNN does it, in a reorder for each block of memory
/// that fits the cache; where it has none that is fast (other dtypes, some processors, strides that overlap) ATen does.
/// Both compute in float32, if neither side is float64 and the input is not int64; then in float64. In float32 the
/// result is within 2^-21 * (|value * scale| + |shift|) of the exact one, before it is rounded to a narrower dtype.
/// NaN that becomes an integer is any integer.
///
/// Uses the calling thread's number of ATen threads, which is one in the loader's workers. Thread-safe; copies share
/// their options. The converter's primitives are kept for each thread and shape, the last 64 of them.
class BatchConverter
    : public torch::data::transforms::BatchTransform<std::vector<torch::data::Example<>>, torch::data::Example<>> {
 public:
  /// Throws c10::Error for options that do not fit each other.
  explicit BatchConverter(BatchConverterOptions options = {});

  const BatchConverterOptions& options() const noexcept { return *options_; }

  /// A batch [B, ...] in the layout `from`, of any strides. Returns one in the layout `to`, contiguous and of the dtype
  /// asked for, without gradient, also where B is 0. Throws c10::Error for a dtype, device, rank or number of channels
  /// that does not fit.
  at::Tensor operator()(const at::Tensor& batch) const;

  /// Samples without a batch's first dimension, of one size and dtype: [H, W, C] each become [B, C, H, W]. Throws
  /// c10::Error if there are none, or if they differ.
  at::Tensor operator()(const std::vector<at::Tensor>& samples) const;

  /// The same for the data of examples; targets are stacked as they are, or left alone.
  torch::data::Example<> operator()(std::vector<torch::data::Example<>> examples) const;
  torch::data::TensorExample operator()(std::vector<torch::data::TensorExample> examples) const;
  torch::data::Example<> operator()(torch::data::Example<> batch) const;
  torch::data::TensorExample operator()(torch::data::TensorExample batch) const;

  torch::data::Example<> apply_batch(std::vector<torch::data::Example<>> examples) override {
    return (*this)(std::move(examples));
  }

 private:
  std::shared_ptr<const BatchConverterOptions> options_;
};

/// BatchConverter for datasets whose batches are no std::vector<Example<>>, but what else it can be called with:
/// `dataset.map(Convert<std::vector<TensorExample>>({...}))`, or `Convert<TensorExample>` for a stateful dataset whose
/// get_batch gives an optional TensorExample. torch::data's map() takes no dataset that gives whole batches without
/// being stateful: make a torch::data::datasets::MapDataset of both, or call the converter in get_batch.
template <typename Batch>
class Convert : public torch::data::transforms::BatchTransform<Batch, decltype(std::declval<const BatchConverter&>()(
                                                                          std::declval<Batch>()))> {
 public:
  using Result = decltype(std::declval<const BatchConverter&>()(std::declval<Batch>()));

  explicit Convert(BatchConverterOptions options = {}) : converter_(std::move(options)) {}
  explicit Convert(BatchConverter converter) : converter_(std::move(converter)) {}

  Result apply_batch(Batch batch) override { return converter_(std::move(batch)); }

 private:
  BatchConverter converter_;
};

}  // namespace torchfeed
