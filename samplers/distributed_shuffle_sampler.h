#pragma once

#include <torch/data/samplers/distributed.h>
#include <torchfeed/samplers/keyed_permutation.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace torchfeed::samplers {

/// One rank's share of a shuffled epoch: together the ranks give each index of [0, size) once, in an order that all of
/// them compute and none of them stores.
///
/// Does what `torch::data::samplers::DistributedRandomSampler` does, in O(1) memory and time. Rank r of W gives the
/// positions r, r + W, r + 2W and so on of the order that `ShuffleSampler` has for the same seed and epoch: what W
/// ranks have done after k batches of b is the same as one rank after k batches of W * b, whatever W is. All ranks give
/// equally many. Where W does not divide the size, either up to W - 1 first indices of the order are given twice
/// (`allow_duplicates`), or up to W - 1 last ones are left out, others in each epoch.
///
/// A new sampler is at the start of epoch 0. `reset` begins the epoch that `set_epoch` has asked for; without it, where
/// torch::data's would repeat the order, the next one (after construction: the first one). So a sampler that a loader
/// owns, and no one can reach, is shuffled anew in each epoch, too.
///
/// Not synchronised: one thread at a time, as the loader does it.
class DistributedShuffleSampler : public torch::data::samplers::DistributedSampler<> {
 public:
  /// `seed` has to be the same on all ranks, so it is not drawn. Throws c10::Error if there are no replicas, `rank` is
  /// none of them, or the size is above 2^63.
  explicit DistributedShuffleSampler(std::size_t size, std::size_t num_replicas = 1, std::size_t rank = 0,
                                     bool allow_duplicates = true, std::uint64_t seed = 0);

  /// Asks for this epoch at the next reset(), even if it is the one that goes on now.
  void set_epoch(std::size_t epoch) noexcept;

  /// Begins an epoch, and with another size of the whole if one is given.
  void reset(torch::optional<std::size_t> new_size = {}) override;

  /// This rank's next at most `batch_size` indices; empty at the end of the epoch.
  torch::optional<std::vector<std::size_t>> next(std::size_t batch_size) override;

  /// Writes the place, and of which rank it is.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote on this rank, size and seed included. Throws c10::Error, and stays as it was, if the
  /// archive does not fit, or is of another rank or number of ranks: batches that its loader had asked for and not
  /// handed out are in a state, too, and would be lost or come twice.
  void load(torch::serialize::InputArchive& archive) override;

  /// Goes to a position of this rank's share in O(1). Throws c10::Error above size().
  void seek(std::size_t position);

  /// How many indices of this epoch have been given.
  std::size_t index() const noexcept { return position_; }

  /// Indices an epoch that each rank gives.
  std::size_t size() const noexcept { return local_size_; }

  std::uint64_t seed() const noexcept { return seed_; }

 private:
  void prepare();

  std::uint64_t seed_;
  std::size_t current_epoch_ = 0;  // what the order is of; epoch_ is what was asked for, be it through the base class
  bool epoch_was_set_ = false;
  bool was_reset_ = false;
  std::size_t position_ = 0;
  std::size_t local_size_ = 0;
  KeyedPermutation permutation_{0, 0};
};

}  // namespace torchfeed::samplers
