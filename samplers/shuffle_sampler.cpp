#include <torchfeed/samplers/detail/saved_state.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <c10/util/Exception.h>

namespace torchfeed::samplers {
namespace {

constexpr const char* kKind = "ShuffleSampler";

std::size_t check_size(std::size_t size) {
  TORCH_CHECK(size <= KeyedPermutation::kMaxSize, kKind, ": expected a size of at most 2^63, got ", size);
  return size;
}

}  // namespace

ShuffleSampler::ShuffleSampler(std::size_t size, std::optional<std::uint64_t> seed)
    : SeekableSampler(kKind, check_size(size), seed), permutation_(size, key()) {}

void ShuffleSampler::reset(torch::optional<std::size_t> new_size) {
  begin_next_epoch(new_size ? check_size(*new_size) : size());
  permutation_ = KeyedPermutation(size(), key());
}

void ShuffleSampler::save(torch::serialize::OutputArchive& archive) const {
  detail::StateWriter state(archive, kKind);
  save_place(state);
}

void ShuffleSampler::load(torch::serialize::InputArchive& archive) {
  load_place(detail::StateReader(archive, kKind));
  permutation_ = KeyedPermutation(size(), key());
}

void ShuffleSampler::fill(std::size_t first, std::span<std::size_t> indices) { permutation_.map(first, 1, indices); }

}  // namespace torchfeed::samplers
