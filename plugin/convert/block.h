#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace torchfeed::convert {

using Dims = std::vector<std::int64_t>;

/// Elements that are converted at once, as they lie in memory: element (i, j, ...) is at i * strides[0] + j *
/// strides[1]
/// + ..., in elements.
struct Block {
  at::ScalarType from = at::kFloat;
  at::ScalarType to = at::kFloat;
  Dims sizes;
  Dims from_strides;
  Dims to_strides;
  /// The dimension along which scale or shift change; -1 where they do not.
  int channel = -1;
};

/// Strides of memory without gaps.
Dims contiguous_strides(const Dims& sizes);

/// The same elements with as few dimensions as possible: those of size 1 are left out, and neighbours are made one
/// where both sides let them. The channels keep a dimension of their own. May have no dimension left.
Block merged(const Block& block);

/// Adds `values` to the elements of the `to` side, float32: one for all, or one a channel.
void add(const Block& block, const std::vector<float>& values, float* to);

}  // namespace torchfeed::convert
