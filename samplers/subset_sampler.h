#pragma once

#include <torchfeed/samplers/index_range.h>
#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/seekable_sampler.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

namespace torchfeed::samplers {

/// Options of `SubsetSampler`.
struct SubsetOptions {
  /// Whether each epoch has a new order of its own; else all have the order that was given. Default: false.
  bool shuffle = false;
  /// Default: drawn from torch's default CPU generator.
  std::optional<std::uint64_t> seed{};
};

/// A sampler that gives some of a dataset's indices, each as often as it was given to it: one side of a split, or one
/// fold of a `WalkForward`. Of a range nothing is stored, shuffled or not, and `seek` takes O(1) of either.
class SubsetSampler : public SeekableSampler {
 public:
  explicit SubsetSampler(std::vector<std::size_t> indices, const SubsetOptions& options = {});

  /// Throws c10::Error if the range ends before it begins, or is longer than 2^63.
  explicit SubsetSampler(IndexRange range, const SubsetOptions& options = {});

  /// Begins the next epoch. Throws c10::Error for another size, as it is given with the indices.
  void reset(torch::optional<std::size_t> new_size = {}) override;

  /// Writes seed, epoch, position, and a hash of the indices.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote. Throws c10::Error, and stays as it was, if the archive does not fit: the indices and
  /// `shuffle` have to be the same.
  void load(torch::serialize::InputArchive& archive) override;

 private:
  using Subset = std::variant<IndexRange, std::vector<std::size_t>>;

  SubsetSampler(Subset subset, const SubsetOptions& options);
  void fill(std::size_t first, std::span<std::size_t> indices) override;
  void prepare() noexcept;

  Subset subset_;
  std::uint64_t subset_hash_;
  bool shuffle_;
  KeyedPermutation permutation_{0, 0};  // of positions, if they are shuffled
};

}  // namespace torchfeed::samplers
