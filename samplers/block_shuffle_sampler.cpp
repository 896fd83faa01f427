#include <torchfeed/samplers/block_shuffle_sampler.h>
#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/saved_state.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace torchfeed::samplers {
namespace {

constexpr const char* kKind = "BlockShuffleSampler";

std::size_t check_size(std::size_t size) {
  TORCH_CHECK(size <= KeyedPermutation::kMaxSize, kKind, ": expected a size of at most 2^63, got ", size);
  return size;
}

void check_options(std::size_t block_size, std::size_t window_blocks) {
  TORCH_CHECK(block_size > 0, kKind, ": block_size: expected 1 or above, got 0");
  TORCH_CHECK(window_blocks > 0, kKind, ": window_blocks: expected 1 or above, got 0");
}

}  // namespace

BlockShuffleSampler::BlockShuffleSampler(std::size_t size, const BlockShuffleOptions& options)
    : SeekableSampler(kKind, check_size(size), options.seed),
      block_size_(options.block_size),
      window_blocks_(options.window_blocks) {
  check_options(block_size_, window_blocks_);
  prepare();
}

void BlockShuffleSampler::reset(torch::optional<std::size_t> new_size) {
  begin_next_epoch(new_size ? check_size(*new_size) : size());
  prepare();
}

void BlockShuffleSampler::save(torch::serialize::OutputArchive& archive) const {
  detail::StateWriter state(archive, kKind);
  state.word("block_size", block_size_);
  state.word("window_blocks", window_blocks_);
  save_place(state);
}

void BlockShuffleSampler::load(torch::serialize::InputArchive& archive) {
  const detail::StateReader state(archive, kKind);
  const std::size_t block_size = state.word("block_size");
  const std::size_t window_blocks = state.word("window_blocks");
  check_options(block_size, window_blocks);
  load_place(state);
  block_size_ = block_size;
  window_blocks_ = window_blocks;
  prepare();
}

/// Lays out the epoch. Options may be far above the size: block_ * window_ does not overflow.
void BlockShuffleSampler::prepare() {
  block_ = std::min(block_size_, std::max<std::size_t>(size(), 1));
  blocks_ = size() / block_ + (size() % block_ != 0);
  window_ = std::min(window_blocks_, std::max<std::size_t>(blocks_, 1));
  missing_ = blocks_ * block_ - size();
  block_at_ = KeyedPermutation(blocks_, key());
  short_place_ = blocks_ == 0 ? 0 : block_at_.inverse(blocks_ - 1);
  window_begin_ = 0;
  window_end_ = 0;
}

void BlockShuffleSampler::fill(std::size_t first, std::span<std::size_t> indices) {
  while (!indices.empty()) {
    enter_window(first);
    const auto part = indices.first(std::min(indices.size(), window_end_ - first));
    within_.map(first - window_begin_, 1, part);
    for (std::size_t& index : part) {
      const std::size_t offset = index < short_end_ ? index : index + missing_;
      index = blocks_here_[offset / block_] * block_ + offset % block_;
    }
    first += part.size();
    indices = indices.subspan(part.size());
  }
}

void BlockShuffleSampler::enter_window(std::size_t position) {
  if (position >= window_begin_ && position < window_end_) {
    return;
  }
  const std::size_t window = window_of(position);
  const std::size_t begin = window * window_;
  const std::size_t end = std::min(begin + window_, blocks_);
  blocks_here_.resize(end - begin);
  block_at_.map(begin, 1, blocks_here_);
  window_begin_ = block_begin(begin);
  window_end_ = block_begin(end);
  const bool has_short = begin <= short_place_ && short_place_ < end;
  short_end_ = has_short ? (short_place_ - begin + 1) * block_ - missing_ : std::numeric_limits<std::size_t>::max();
  within_ = KeyedPermutation(window_end_ - window_begin_, detail::random_word(detail::mix(key()), window));
}

std::size_t BlockShuffleSampler::window_of(std::size_t position) const noexcept {
  const std::size_t short_window_end = block_begin(std::min((short_place_ / window_ + 1) * window_, blocks_));
  return (position < short_window_end ? position : position + missing_) / (block_ * window_);
}

/// The position at which the block at a place of the order begins.
std::size_t BlockShuffleSampler::block_begin(std::size_t place) const noexcept {
  return place * block_ - (place > short_place_ ? missing_ : 0);
}

}  // namespace torchfeed::samplers
