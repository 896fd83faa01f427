#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/saved_state.h>
#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/seekable_sampler.h>

#include <c10/util/Exception.h>

#include <algorithm>

namespace torchfeed::samplers {

SeekableSampler::SeekableSampler(const char* kind, std::size_t size, std::optional<std::uint64_t> seed)
    : kind_(kind), size_(size), seed_(seed ? *seed : detail::draw_seed()) {}

torch::optional<std::vector<std::size_t>> SeekableSampler::next(std::size_t batch_size) {
  const std::size_t count = std::min(batch_size, size_ - position_);
  if (count == 0) {
    return {};
  }
  std::vector<std::size_t> indices(count);
  fill(position_, indices);
  position_ += count;
  return indices;
}

void SeekableSampler::seek(std::size_t position) {
  TORCH_CHECK(position <= size_, kind_, ": seek: expected a position of at most ", size_, ", got ", position);
  position_ = position;
}

std::uint64_t SeekableSampler::key() const noexcept { return detail::epoch_key(seed_, epoch_); }

void SeekableSampler::begin_next_epoch(std::size_t size) noexcept {
  size_ = size;
  ++epoch_;
  position_ = 0;
}

void SeekableSampler::save_place(detail::StateWriter& state) const {
  state.word("size", size_);
  state.word("seed", seed_);
  state.word("epoch", epoch_);
  state.word("position", position_);
}

void SeekableSampler::load_place(const detail::StateReader& state) {
  const std::uint64_t size = state.word("size");
  const std::uint64_t seed = state.word("seed");
  const std::uint64_t epoch = state.word("epoch");
  const std::uint64_t position = state.word("position");
  TORCH_CHECK(size <= KeyedPermutation::kMaxSize, kind_, ": expected a size of at most 2^63 in the archive, got ",
              size);
  TORCH_CHECK(position <= size, kind_, ": expected a position of at most the size ", size, " in the archive, got ",
              position);
  size_ = size;
  seed_ = seed;
  epoch_ = epoch;
  position_ = position;
}

}  // namespace torchfeed::samplers
