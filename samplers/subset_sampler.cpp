#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/saved_state.h>
#include <torchfeed/samplers/subset_sampler.h>

#include <c10/util/Exception.h>

#include <numeric>
#include <utility>

namespace torchfeed::samplers {
namespace {

constexpr const char* kKind = "SubsetSampler";

const IndexRange& check_range(const IndexRange& range) {
  TORCH_CHECK(range.begin <= range.end && range.size() <= KeyedPermutation::kMaxSize, kKind,
              ": expected a range of 0 to 2^63 indices, got [", range.begin, ", ", range.end, ")");
  return range;
}

std::uint64_t hash(const IndexRange& range) { return detail::fold(detail::fold(0, range.begin), range.end); }

std::uint64_t hash(const std::vector<std::size_t>& indices) {
  return std::accumulate(indices.begin(), indices.end(), std::uint64_t{1}, detail::fold);
}

}  // namespace

SubsetSampler::SubsetSampler(std::vector<std::size_t> indices, const SubsetOptions& options)
    : SubsetSampler(Subset(std::move(indices)), options) {}

SubsetSampler::SubsetSampler(IndexRange range, const SubsetOptions& options)
    : SubsetSampler(Subset(check_range(range)), options) {}

SubsetSampler::SubsetSampler(Subset subset, const SubsetOptions& options)
    : SeekableSampler(kKind, std::visit([](const auto& indices) { return indices.size(); }, subset), options.seed),
      subset_(std::move(subset)),
      subset_hash_(std::visit([](const auto& indices) { return hash(indices); }, subset_)),
      shuffle_(options.shuffle) {
  prepare();
}

void SubsetSampler::reset(torch::optional<std::size_t> new_size) {
  TORCH_CHECK(!new_size || *new_size == size(), kKind, ": reset: expected no new size, as there are ", size(),
              " indices, got ", *new_size);
  begin_next_epoch(size());
  prepare();
}

void SubsetSampler::save(torch::serialize::OutputArchive& archive) const {
  detail::StateWriter state(archive, kKind);
  state.word("shuffle", shuffle_ ? 1 : 0);
  state.word("subset_hash", subset_hash_);
  save_place(state);
}

void SubsetSampler::load(torch::serialize::InputArchive& archive) {
  const detail::StateReader state(archive, kKind);
  state.expect("shuffle", shuffle_ ? 1 : 0, "shuffle");
  state.expect("size", size(), "a number of indices of");
  state.expect("subset_hash", subset_hash_, "indices of the hash");
  load_place(state);
  prepare();
}

void SubsetSampler::fill(std::size_t first, std::span<std::size_t> indices) {
  if (shuffle_) {
    permutation_.map(first, 1, indices);
  } else {
    std::iota(indices.begin(), indices.end(), first);
  }
  if (const auto* range = std::get_if<IndexRange>(&subset_)) {
    for (std::size_t& index : indices) {
      index += range->begin;
    }
  } else {
    const auto& subset = std::get<std::vector<std::size_t>>(subset_);
    for (std::size_t& index : indices) {
      index = subset[index];
    }
  }
}

void SubsetSampler::prepare() noexcept {
  if (shuffle_) {
    permutation_ = KeyedPermutation(size(), key());
  }
}

}  // namespace torchfeed::samplers
