#pragma once

#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/seekable_sampler.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace torchfeed::samplers {

/// Options of `BlockShuffleSampler`.
struct BlockShuffleOptions {
  /// Consecutive indices that stay together; 1 and above. What lies behind them should be a good piece to read at once:
  /// some hundred kilobytes of a mapped file. Default: 4096.
  std::size_t block_size = 4096;
  /// Blocks that are mixed with each other; 1 and above. What lies behind block_size * window_blocks indices is what an
  /// epoch has in use at a time, and should fit into memory. Default: 64.
  std::size_t window_blocks = 64;
  /// Default: drawn from torch's default CPU generator.
  std::optional<std::uint64_t> seed{};
};

/// A sampler for data that does not fit into memory, as of a memory-mapped file: gives each index of [0, size) once an
/// epoch, shuffled, but near to each other for a while.
///
/// Blocks of `block_size` consecutive indices are put into a random order, new in each epoch; `window_blocks` of them
/// in a row are a window, and each window's indices are shuffled together before the next window's come. So a batch's
/// indices are spread over a window's blocks, from all over the data, while no more than one window is in use. How good
/// a shuffle that is depends on the number of blocks in a window alone: see `measure_shuffle_quality`. With
/// block_size = 1 or with size <= block_size * window_blocks it is as good as `ShuffleSampler`.
///
/// Nothing is stored but one window's blocks: `seek` and `load` take O(window_blocks). The order depends on (size,
/// options, seed, epoch) alone, on any machine.
class BlockShuffleSampler : public SeekableSampler {
 public:
  /// Throws c10::Error for a size above 2^63 and for options out of range.
  explicit BlockShuffleSampler(std::size_t size, const BlockShuffleOptions& options = {});

  /// Begins the next epoch, with its own order, and with another size if one is given.
  void reset(torch::optional<std::size_t> new_size = {}) override;

  /// Writes options, size, seed, epoch and position.
  void save(torch::serialize::OutputArchive& archive) const override;

  /// Takes over what `save` wrote, options and size included. Throws c10::Error, and stays as it was, if the archive
  /// does not fit.
  void load(torch::serialize::InputArchive& archive) override;

  std::size_t block_size() const noexcept { return block_size_; }
  std::size_t window_blocks() const noexcept { return window_blocks_; }

 private:
  void fill(std::size_t first, std::span<std::size_t> indices) override;
  void prepare();
  void enter_window(std::size_t position);
  std::size_t window_of(std::size_t position) const noexcept;
  std::size_t block_begin(std::size_t place) const noexcept;

  std::size_t block_size_;
  std::size_t window_blocks_;

  // Of the epoch. Blocks have a place each in the epoch's order. The last block of the data may be short.
  std::size_t block_ = 1;        // indices in a block, but the short one
  std::size_t blocks_ = 0;       // of the whole
  std::size_t window_ = 1;       // blocks in a window, but the last one
  std::size_t missing_ = 0;      // indices that the short block has not
  std::size_t short_place_ = 0;  // of the short block
  KeyedPermutation block_at_{0, 0};

  // Of the window that was used last.
  std::size_t window_begin_ = 0;  // its positions; none at first
  std::size_t window_end_ = 0;
  std::size_t short_end_ = std::numeric_limits<std::size_t>::max();  // where its short block ends, counted in it
  std::vector<std::size_t> blocks_here_;
  KeyedPermutation within_{0, 0};
};

}  // namespace torchfeed::samplers
