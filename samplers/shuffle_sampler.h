#pragma once

#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/seekable_sampler.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace torchfeed::samplers {

/// A sampler that gives each index of [0, size) once an epoch, in a pseudo-random order that is new in each epoch.
///
/// Does what `torch::data::samplers::RandomSampler` does, with these differences: the order is computed, not stored, so
/// that any size up to 2^63 takes the same few bytes and no time to reset; `seek` goes to any position in O(1); a state
/// of four integers brings back the exact order. The order depends on (size, seed, epoch) alone, on any machine and
/// with any version of LibTorch.
class ShuffleSampler : public SeekableSampler {
 public:
  /// Throws c10::Error for a size above 2^63.
  explicit ShuffleSampler(std::size_t size, std::optional<std::uint64_t> seed = std::nullopt);

  /// Begins the next epoch, with its own order, and with another size if one is given.
  void reset(torch::optional<std::size_t> new_size = {}) override;

  /// Writes size, seed, epoch and position.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote, size included. Throws c10::Error, and stays as it was, if the archive does not fit.
  void load(torch::serialize::InputArchive& archive) override;

 private:
  void fill(std::size_t first, std::span<std::size_t> indices) override;

  KeyedPermutation permutation_;
};

}  // namespace torchfeed::samplers
