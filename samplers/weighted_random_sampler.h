#pragma once

#include <torchfeed/samplers/detail/weighted_draws.h>
#include <torchfeed/samplers/seekable_sampler.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

namespace torchfeed::samplers {

/// Options of `WeightedRandomSampler`.
struct WeightedRandomOptions {
  /// Draws an epoch, at most 2^63; without replacement at most the weights above 0. Default: as many as weights.
  std::optional<std::size_t> num_samples{};
  /// Whether an index may be drawn again in an epoch. Default: true.
  bool replacement = true;
  /// Default: drawn from torch's default CPU generator.
  std::optional<std::uint64_t> seed{};
};

/// A sampler that draws indices in proportion to given weights, as Python's `WeightedRandomSampler` does: for classes
/// of which there are few examples, or for recent data before old.
///
/// With replacement, each draw takes O(1) time, whatever the number of weights, and any draw of any epoch is there at
/// once. Without, each draw is in proportion to the weights that are left; the first batch of an epoch, and the first
/// after `load`, takes O(weights), and the epoch's draws are stored. What is drawn depends on (weights, options, seed,
/// epoch) alone, on any machine.
class WeightedRandomSampler : public SeekableSampler {
 public:
  /// Weights need not sum to 1. Throws c10::Error for weights that are negative or not finite, for weights that are all
  /// 0, and for more draws without replacement than weights above 0.
  explicit WeightedRandomSampler(std::span<const double> weights, const WeightedRandomOptions& options = {});

  /// Begins the next epoch, with its own draws, and with another number of them if one is given.
  void reset(torch::optional<std::size_t> new_num_samples = {}) override;

  /// Writes number of draws, seed, epoch, position, and a hash of the weights.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote. Throws c10::Error, and stays as it was, if the archive does not fit: weights and
  /// replacement have to be the same.
  void load(torch::serialize::InputArchive& archive) override;

 private:
  void fill(std::size_t first, std::span<std::size_t> indices) override;

  std::uint64_t weights_hash_;
  std::variant<detail::AliasTable, detail::SuccessiveDraws> draws_;
  std::vector<std::size_t> epoch_draws_;  // without replacement; empty until they are asked for
};

}  // namespace torchfeed::samplers
