#include <torchfeed/plugin/convert/block.h>

#include <algorithm>
#include <cstddef>

namespace torchfeed::convert {
namespace {

/// As many rows of the channels' values as make a loop worth its start.
std::vector<float> repeated(const std::vector<float>& values) {
  constexpr std::size_t kEnough = 256;
  std::vector<float> row = values;
  while (row.size() < kEnough) row.insert(row.end(), values.begin(), values.end());
  return row;
}

void add_row(const float* values, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += values[i];
}

class Addition {
 public:
  Addition(const Block& block, const std::vector<float>& values)
      : block_(block), values_(values), channel_(values.size() == 1 ? -1 : block.channel) {
    // Channels beside each other in memory without gaps are added to many elements at once.
    const std::size_t last = block.sizes.size() - 1;
    if (channel_ > 0 && channel_ == static_cast<int>(last) && block.to_strides[last] == 1 &&
        block.to_strides[last - 1] == block.sizes[last]) {
      row_ = repeated(values);
    }
  }

  void run(float* to) const { run(0, values_.front(), to); }

 private:
  void run(std::size_t dimension, float value, float* to) const {
    const std::size_t left = block_.sizes.size() - dimension;
    if (left == 0) {
      *to += value;
      return;
    }
    const std::int64_t size = block_.sizes[dimension];
    const std::int64_t stride = block_.to_strides[dimension];
    const bool channel = static_cast<int>(dimension) == channel_;
    if (left == 1 && stride == 1 && !channel) {
      for (std::int64_t i = 0; i < size; ++i) to[i] += value;
      return;
    }
    if (left == 2 && !row_.empty()) {
      const std::int64_t count = size * stride;
      const auto step = static_cast<std::int64_t>(row_.size());
      for (std::int64_t i = 0; i < count; i += step) add_row(row_.data(), std::min(step, count - i), to + i);
      return;
    }
    for (std::int64_t i = 0; i < size; ++i) {
      run(dimension + 1, channel ? values_[static_cast<std::size_t>(i)] : value, to + i * stride);
    }
  }

  const Block& block_;
  const std::vector<float>& values_;
  int channel_;  ///< of `values`: -1 where one is for all, even if the block has channels
  std::vector<float> row_;
};

}  // namespace

Dims contiguous_strides(const Dims& sizes) {
  Dims strides(sizes.size());
  std::int64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= sizes[i];
  }
  return strides;
}

Block merged(const Block& block) {
  Block result{block.from, block.to, {}, {}, {}, -1};
  for (std::size_t i = 0; i < block.sizes.size(); ++i) {
    const bool channel = static_cast<int>(i) == block.channel;
    if (block.sizes[i] == 1 && !channel) continue;
    const std::int64_t size = block.sizes[i];
    const std::int64_t from = block.from_strides[i];
    const std::int64_t to = block.to_strides[i];
    const bool after_channel = result.channel + 1 == static_cast<int>(result.sizes.size());
    if (!result.sizes.empty() && !channel && !after_channel && result.from_strides.back() == size * from &&
        result.to_strides.back() == size * to) {
      result.sizes.back() *= size;
      result.from_strides.back() = from;
      result.to_strides.back() = to;
      continue;
    }
    if (channel) result.channel = static_cast<int>(result.sizes.size());
    result.sizes.push_back(size);
    result.from_strides.push_back(from);
    result.to_strides.push_back(to);
  }
  return result;
}

void add(const Block& block, const std::vector<float>& values, float* to) { Addition(block, values).run(to); }

}  // namespace torchfeed::convert
