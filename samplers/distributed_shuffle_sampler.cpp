#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/saved_state.h>
#include <torchfeed/samplers/distributed_shuffle_sampler.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <span>

namespace torchfeed::samplers {
namespace {

constexpr const char* kKind = "DistributedShuffleSampler";

void check_size(std::size_t size) {
  TORCH_CHECK(size <= KeyedPermutation::kMaxSize, kKind, ": expected a size of at most 2^63, got ", size);
}

}  // namespace

DistributedShuffleSampler::DistributedShuffleSampler(std::size_t size, std::size_t num_replicas, std::size_t rank,
                                                     bool allow_duplicates, std::uint64_t seed)
    : DistributedSampler(size, num_replicas, rank, allow_duplicates), seed_(seed) {
  check_size(size);
  TORCH_CHECK(num_replicas > 0 && num_replicas <= KeyedPermutation::kMaxSize, kKind,
              ": expected 1 to 2^63 replicas, got ", num_replicas);
  TORCH_CHECK(rank < num_replicas, kKind, ": expected a rank below the number of replicas ", num_replicas, ", got ",
              rank);
  prepare();
}

void DistributedShuffleSampler::set_epoch(std::size_t epoch) noexcept {
  epoch_ = epoch;
  epoch_was_set_ = true;
}

void DistributedShuffleSampler::reset(torch::optional<std::size_t> new_size) {
  if (new_size) {
    check_size(*new_size);
    size_ = *new_size;
  }
  // A call of the base class's set_epoch leaves no other trace.
  const bool asked = epoch_was_set_ || epoch_ != current_epoch_;
  const bool is_new = !was_reset_ && position_ == 0;
  if (!asked && !is_new) {
    ++epoch_;
  }
  current_epoch_ = epoch_;
  epoch_was_set_ = false;
  was_reset_ = true;
  position_ = 0;
  prepare();
}

torch::optional<std::vector<std::size_t>> DistributedShuffleSampler::next(std::size_t batch_size) {
  const std::size_t count = std::min(batch_size, local_size_ - position_);
  if (count == 0) {
    return {};
  }
  std::vector<std::size_t> indices(count);
  const std::size_t first = position_ * num_replicas_ + rank_;
  const std::size_t last = first + (count - 1) * num_replicas_;
  const bool is_padded = last >= size_;  // the last of the epoch alone may be: all before it are of full rounds
  permutation_.map(first, num_replicas_, std::span(indices).first(is_padded ? count - 1 : count));
  if (is_padded) {
    indices.back() = permutation_(last % size_);
  }
  position_ += count;
  return indices;
}

void DistributedShuffleSampler::save(torch::serialize::OutputArchive& archive) const {
  detail::StateWriter state(archive, kKind);
  state.word("num_replicas", num_replicas_);
  state.word("rank", rank_);
  state.word("allow_duplicates", allow_duplicates_ ? 1 : 0);
  state.word("size", size_);
  state.word("seed", seed_);
  state.word("position", position_);
  state.word("epoch", current_epoch_);
  state.word("asked_epoch", epoch_);
  state.word("epoch_was_set", epoch_was_set_ ? 1 : 0);
  state.word("was_reset", was_reset_ ? 1 : 0);
}

void DistributedShuffleSampler::load(torch::serialize::InputArchive& archive) {
  const detail::StateReader state(archive, kKind);
  state.expect("num_replicas", num_replicas_, "a number of replicas of");
  state.expect("rank", rank_, "rank");
  state.expect("allow_duplicates", allow_duplicates_ ? 1 : 0, "allow_duplicates");
  DistributedShuffleSampler loaded(state.word("size"), num_replicas_, rank_, allow_duplicates_, state.word("seed"));
  loaded.current_epoch_ = state.word("epoch");
  loaded.epoch_ = state.word("asked_epoch");
  loaded.epoch_was_set_ = state.word("epoch_was_set") != 0;
  loaded.was_reset_ = state.word("was_reset") != 0;
  loaded.seek(state.word("position"));
  loaded.prepare();
  *this = loaded;
}

void DistributedShuffleSampler::seek(std::size_t position) {
  TORCH_CHECK(position <= local_size_, kKind, ": seek: expected a position of at most ", local_size_, ", got ",
              position);
  position_ = position;
}

void DistributedShuffleSampler::prepare() {
  local_size_ = local_sample_count();
  permutation_ = KeyedPermutation(size_, detail::epoch_key(seed_, current_epoch_));
}

}  // namespace torchfeed::samplers
