#pragma once

#include <torch/data/samplers/base.h>
#include <torchfeed/samplers/keyed_permutation.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace torchfeed::samplers {

/// A sampler that gives each index of [0, size) once an epoch, in a pseudo-random order that is new in each epoch.
///
/// Does what `torch::data::samplers::RandomSampler` does, with these differences: the order is computed, not stored, so
/// that any size takes the same few bytes and no time to reset; `seek` goes to any position in O(1); a state of four
/// integers brings back the exact order. The order depends on (size, seed, epoch) alone, on any machine and with any
/// version of LibTorch.
///
/// Not synchronised: one thread at a time, as the loader does it.
class ShuffleSampler : public torch::data::samplers::Sampler<> {
 public:
  /// Without a seed, one is drawn from torch's default CPU generator, so that `torch::manual_seed` fixes the order.
  explicit ShuffleSampler(size_t size, std::optional<uint64_t> seed = std::nullopt);

  /// Begins the next epoch, with its own order, and with another size if one is given.
  void reset(torch::optional<size_t> new_size = torch::nullopt) override;

  /// The next at most `batch_size` indices; empty at the end of the epoch.
  torch::optional<std::vector<size_t>> next(size_t batch_size) override;

  /// Writes size, seed, epoch and position.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote, size included. Throws c10::Error, and stays as it was, if the archive does not fit.
  void load(torch::serialize::InputArchive& archive) override;

  /// Goes to a position of this epoch in O(1). Throws c10::Error above size().
  void seek(size_t position);

  /// How many indices of this epoch have been given.
  size_t index() const noexcept { return position_; }

  size_t size() const noexcept { return permutation_.size(); }
  uint64_t seed() const noexcept { return seed_; }

  /// The number of resets so far.
  uint64_t epoch() const noexcept { return epoch_; }

 private:
  uint64_t seed_;
  uint64_t epoch_ = 0;
  size_t position_ = 0;
  KeyedPermutation permutation_;
};

}  // namespace torchfeed::samplers
