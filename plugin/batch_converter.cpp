#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/convert/aten_conversion.h>
#include <torchfeed/plugin/convert/block_conversion.h>
#include <torchfeed/plugin/convert/reorder.h>
#include <torchfeed/plugin/stack.h>
#include <torchfeed/plugin/threading/openmp_team.h>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace torchfeed {
namespace {

using convert::Dims;

bool has_channels(BatchLayout layout) { return layout != BatchLayout::kNoChannels; }

const char* name_of(BatchLayout layout) {
  switch (layout) {
    case BatchLayout::kNoChannels:
      return "[B, ...]";
    case BatchLayout::kChannelsFirst:
      return "[B, C, ...]";
    default:
      return "[B, ..., C]";
  }
}

/// How many channels the options have numbers for; 1 if theirs are for any.
std::size_t channels_of(const BatchConverterOptions& options) {
  return std::max(options.scale.size(), options.shift.size());
}

void check_numbers(const char* name, const std::vector<double>& numbers) {
  TORCH_CHECK(!numbers.empty(), "torchfeed: BatchConverter: ", name,
              ": expected one number or one a channel, got none");
  for (const double number : numbers) {
    // Both are used in float32.
    TORCH_CHECK(std::isfinite(static_cast<float>(number)), "torchfeed: BatchConverter: ", name,
                ": expected finite numbers in float32, got ", number);
  }
}

BatchConverterOptions checked(BatchConverterOptions options) {
  switch (options.dtype) {
    case at::kFloat:
    case at::kBFloat16:
    case at::kHalf:
    case at::kDouble:
    case at::kInt:
    case at::kChar:
    case at::kByte:
      break;
    default:
      TORCH_CHECK(false,
                  "torchfeed: BatchConverter: dtype: expected Float, BFloat16, Half, Double, Int, Char or Byte, got ",
                  options.dtype);
  }
  check_numbers("scale", options.scale);
  check_numbers("shift", options.shift);
  TORCH_CHECK(options.scale.size() == 1 || options.shift.size() == 1 || options.scale.size() == options.shift.size(),
              "torchfeed: BatchConverter: expected scale and shift for the same number of channels, got ",
              options.scale.size(), " and ", options.shift.size());
  TORCH_CHECK(has_channels(options.from) == has_channels(options.to),
              "torchfeed: BatchConverter: expected channels in both layouts or in none, got from ",
              name_of(options.from), " to ", name_of(options.to));
  TORCH_CHECK(has_channels(options.from) || channels_of(options) == 1,
              "torchfeed: BatchConverter: expected a layout with channels for scale and shift of ",
              channels_of(options), " channels, got ", name_of(options.from));
  return options;
}

void check_tensor(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined(), "torchfeed: BatchConverter: expected a tensor as ", what, ", got an undefined one");
  TORCH_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided,
              "torchfeed: BatchConverter: expected a dense tensor on the CPU as ", what, ", got one on ",
              tensor.device(), " with layout ", tensor.layout());
  const at::ScalarType dtype = tensor.scalar_type();
  TORCH_CHECK(c10::isIntegralType(dtype, true) || c10::isFloatingType(dtype),
              "torchfeed: BatchConverter: expected real numbers as ", what, ", got ", dtype);
}

/// The dimensions of the input in the order of the result's: dimension i of the result is dimension order[i] of the
/// input, which is a whole batch.
Dims order_of(const BatchConverterOptions& options, std::size_t dimensions) {
  Dims order(dimensions);
  for (std::size_t i = 0; i < dimensions; ++i) order[i] = static_cast<std::int64_t>(i);
  if (options.from == BatchLayout::kChannelsLast && options.to == BatchLayout::kChannelsFirst) {
    std::rotate(order.begin() + 1, order.end() - 1, order.end());
  } else if (options.from == BatchLayout::kChannelsFirst && options.to == BatchLayout::kChannelsLast) {
    std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  }
  return order;
}

Dims in_order(at::IntArrayRef values, const Dims& order) {
  Dims result;
  result.reserve(order.size());
  for (const std::int64_t i : order) result.push_back(values[static_cast<std::size_t>(i)]);
  return result;
}

Dims with_first(std::int64_t first, at::IntArrayRef others) {
  Dims result{first};
  result.insert(result.end(), others.begin(), others.end());
  return result;
}

/// One conversion: sizes, strides and channels, checked.
class Conversion {
 public:
  /// `sizes` is of one source, with the batch's dimension; `got` for messages.
  Conversion(const BatchConverterOptions& options, const Dims& sizes, at::IntArrayRef got)
      : affine_{options.scale, options.shift} {
    TORCH_CHECK(!has_channels(options.from) || sizes.size() >= 2, "torchfeed: BatchConverter: expected dimensions ",
                name_of(options.from), ", got sizes ", got);
    order_ = order_of(options, sizes.size());
    job_.to = options.dtype;
    job_.sizes = in_order(sizes, order_);
    if (!has_channels(options.from)) return;
    const std::size_t at = options.to == BatchLayout::kChannelsFirst ? 1 : sizes.size() - 1;
    const std::size_t expected = channels_of(options);
    TORCH_CHECK(expected == 1 || job_.sizes[at] == static_cast<std::int64_t>(expected),
                "torchfeed: BatchConverter: expected ", expected, " channels in ", name_of(options.from),
                ", got sizes ", got);
    if (expected > 1) job_.channel = static_cast<int>(at);
  }

  /// Sources [B, ...] (or one sample each with strides as if it were a batch) to a new batch.
  at::Tensor run(const std::vector<at::Tensor>& tensors, bool samples) {
    const at::ScalarType from = tensors[0].scalar_type();
    Dims sizes = job_.sizes;
    sizes[0] *= static_cast<std::int64_t>(tensors.size());
    at::Tensor result = empty_batch(sizes, at::TensorOptions().dtype(job_.to));
    if (result.numel() == 0) return result;
    // Where there is nothing to compute, ATen copies, exactly.
    const bool copies = from == job_.to && from != at::kFloat && is_identity();
    if (copies || !with_onednn(tensors, samples, from, result)) with_aten(tensors, samples, result);
    return result;
  }

 private:
  bool is_identity() const {
    return std::all_of(affine_.scale.begin(), affine_.scale.end(), [](double value) { return value == 1; }) &&
           std::all_of(affine_.shift.begin(), affine_.shift.end(), [](double value) { return value == 0; });
  }

  bool with_onednn(const std::vector<at::Tensor>& tensors, bool samples, at::ScalarType from,
                   const at::Tensor& result) {
    job_.from = from;
    for (const at::Tensor& tensor : tensors) {
      const Dims strides = samples ? with_first(0, tensor.strides()) : tensor.strides().vec();
      job_.sources.push_back({tensor.data_ptr(), in_order(strides, order_)});
    }
    const int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
    return convert::convert_with_onednn(job_, affine_, result.data_ptr(), threads, threading::run_in_openmp_team);
  }

  void with_aten(const std::vector<at::Tensor>& tensors, bool samples, const at::Tensor& result) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const at::Tensor source = (samples ? tensors[i].unsqueeze(0) : tensors[i]).permute(order_);
      const std::int64_t rows = job_.sizes[0];
      convert::convert_with_aten(source, affine_, job_.channel,
                                 result.narrow(0, static_cast<std::int64_t>(i) * rows, rows));
    }
  }

  convert::Affine affine_;
  convert::Job job_;
  Dims order_;
};

/// As it lies in memory: a view of another's imaginary part may be negated.
at::Tensor plain(const at::Tensor& tensor) { return tensor.is_neg() ? tensor.resolve_neg() : tensor; }

}  // namespace

BatchConverter::BatchConverter(BatchConverterOptions options)
    : options_(std::make_shared<const BatchConverterOptions>(checked(std::move(options)))) {
  // In the trainer, before workers are forked.
  convert::prepare_reorders();
  threading::gomp_parallel();
}

at::Tensor BatchConverter::operator()(const at::Tensor& batch) const {
  check_tensor(batch, "a batch");
  TORCH_CHECK(batch.dim() >= 1, "torchfeed: BatchConverter: expected dimensions ", name_of(options_->from),
              ", got a single number");
  return Conversion(*options_, batch.sizes().vec(), batch.sizes()).run({plain(batch)}, false);
}

at::Tensor BatchConverter::operator()(const std::vector<at::Tensor>& samples) const {
  TORCH_CHECK(!samples.empty(), "torchfeed: BatchConverter: expected at least one sample, got none");
  std::vector<at::Tensor> plain_samples;
  plain_samples.reserve(samples.size());
  for (const at::Tensor& sample : samples) {
    check_tensor(sample, "a sample");
    const at::Tensor& first = samples[0];
    TORCH_CHECK(sample.sizes() == first.sizes() && sample.scalar_type() == first.scalar_type(),
                "torchfeed: BatchConverter: expected samples of one size and dtype, got ", first.sizes(), " ",
                first.scalar_type(), " and ", sample.sizes(), " ", sample.scalar_type());
    plain_samples.push_back(plain(sample));
  }
  const at::IntArrayRef got = samples[0].sizes();
  return Conversion(*options_, with_first(1, got), got).run(plain_samples, true);
}

torch::data::Example<> BatchConverter::operator()(std::vector<torch::data::Example<>> examples) const {
  return collate_examples(std::move(examples), *this);
}

torch::data::TensorExample BatchConverter::operator()(std::vector<torch::data::TensorExample> examples) const {
  return collate_examples(std::move(examples), *this);
}

torch::data::Example<> BatchConverter::operator()(torch::data::Example<> batch) const {
  return {(*this)(batch.data), std::move(batch.target)};
}

torch::data::TensorExample BatchConverter::operator()(torch::data::TensorExample batch) const {
  return (*this)(batch.data);
}

}  // namespace torchfeed
