#pragma once

#include <torch/data/samplers/base.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace torchfeed::samplers {

namespace detail {
class StateReader;
class StateWriter;
}  // namespace detail

/// What torchfeed's samplers share: an epoch is size() indices, each of them a function of (what the sampler was made
/// with, seed, epoch, position), so that a few integers bring back any place of any epoch.
///
/// A new sampler is at the start of epoch 0, and `reset` begins the next one; a loader resets its sampler before each
/// epoch. Without a seed, one is drawn from torch's default CPU generator, so that `torch::manual_seed` fixes it.
///
/// Not synchronised: one thread at a time, as the loader does it.
class SeekableSampler : public torch::data::samplers::Sampler<> {
 public:
  /// The next at most `batch_size` indices; empty at the end of the epoch.
  torch::optional<std::vector<std::size_t>> next(std::size_t batch_size) override;

  /// Goes to a position of this epoch. Throws c10::Error above size().
  void seek(std::size_t position);

  /// How many indices of this epoch have been given.
  std::size_t index() const noexcept { return position_; }

  /// Indices an epoch.
  std::size_t size() const noexcept { return size_; }

  std::uint64_t seed() const noexcept { return seed_; }

  /// The number of resets so far.
  std::uint64_t epoch() const noexcept { return epoch_; }

 protected:
  /// `kind`: the class's name, a literal.
  SeekableSampler(const char* kind, std::size_t size, std::optional<std::uint64_t> seed);

  const char* kind() const noexcept { return kind_; }

  /// Belongs to (seed, epoch).
  std::uint64_t key() const noexcept;

  /// Goes to the start of the next epoch.
  void begin_next_epoch(std::size_t size) noexcept;

  /// Writes size, seed, epoch and position.
  void save_place(detail::StateWriter& state) const;

  /// Takes over what save_place() wrote. Throws c10::Error, and stays as it was, if that is no place.
  void load_place(const detail::StateReader& state);

  /// The indices at the positions [first, first + indices.size()) of this epoch.
  virtual void fill(std::size_t first, std::span<std::size_t> indices) = 0;

 private:
  const char* kind_;
  std::size_t size_;
  std::uint64_t seed_;
  std::uint64_t epoch_ = 0;
  std::size_t position_ = 0;
};

}  // namespace torchfeed::samplers
