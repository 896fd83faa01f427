#pragma once

#include <cstddef>
#include <span>

namespace torchfeed::samplers {

/// How near an epoch's order comes to a full shuffle. See `measure_shuffle_quality`.
struct ShuffleQuality {
  /// Mean distance of an index from its position, as a share of what a full shuffle has (a third of the size): 1 is as
  /// far, 0 is in order.
  double displacement = 0;
  /// Correlation of successive indices, -1 to 1: 0 in a full shuffle, 1 in order. For a BlockShuffleSampler about
  /// 1 / window_blocks, as that is how often two in succession are of the same block.
  double serial_correlation = 0;
  /// Variance of the mean index of a batch, as a multiple of what a full shuffle has: 1 is as good. Where a sample's
  /// gradient depends on where in the data it is from, this is how much noisier a batch's gradient is, the size of the
  /// batch in order. 0 if there are fewer than two batches.
  double batch_variance = 0;
};

/// Measures an epoch's order, all indices of [0, order.size()) once each, and as it comes in batches of `batch_size`
/// (an incomplete last batch is left out). Throws c10::Error for batches of 0.
ShuffleQuality measure_shuffle_quality(std::span<const std::size_t> order, std::size_t batch_size);

}  // namespace torchfeed::samplers
