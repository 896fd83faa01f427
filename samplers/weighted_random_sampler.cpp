#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/saved_state.h>
#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/weighted_random_sampler.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace torchfeed::samplers {
namespace {

using Draws = std::variant<detail::AliasTable, detail::SuccessiveDraws>;

constexpr const char* kKind = "WeightedRandomSampler";

std::span<const double> check_weights(std::span<const double> weights) {
  TORCH_CHECK(!weights.empty(), kKind, ": expected at least one weight, got none");
  for (std::size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK(std::isfinite(weights[i]) && weights[i] >= 0, kKind, ": expected finite weights of 0 and above, got ",
                weights[i], " at ", i);
  }
  TORCH_CHECK(*std::max_element(weights.begin(), weights.end()) > 0, kKind,
              ": expected at least one weight above 0, got ", weights.size(), " of 0");
  return weights;
}

void check_num_samples(const Draws& draws, std::size_t num_samples) {
  TORCH_CHECK(num_samples <= KeyedPermutation::kMaxSize, kKind, ": expected at most 2^63 draws, got ", num_samples);
  if (const auto* successive = std::get_if<detail::SuccessiveDraws>(&draws)) {
    TORCH_CHECK(num_samples <= successive->candidates(), kKind, ": expected at least ", num_samples,
                " weights above 0 for as many draws without replacement, got ", successive->candidates());
  }
}

Draws make_draws(std::span<const double> weights, bool replacement) {
  check_weights(weights);
  return replacement ? Draws(detail::AliasTable(weights)) : Draws(detail::SuccessiveDraws(weights));
}

std::uint64_t hash(std::span<const double> weights) {
  std::uint64_t hash = weights.size();
  for (const double weight : weights) {
    hash = detail::fold(hash, std::bit_cast<std::uint64_t>(weight));
  }
  return hash;
}

}  // namespace

WeightedRandomSampler::WeightedRandomSampler(std::span<const double> weights, const WeightedRandomOptions& options)
    : SeekableSampler(kKind, options.num_samples.value_or(weights.size()), options.seed),
      weights_hash_(hash(weights)),
      draws_(make_draws(weights, options.replacement)) {
  check_num_samples(draws_, size());
}

void WeightedRandomSampler::reset(torch::optional<std::size_t> new_num_samples) {
  const std::size_t num_samples = new_num_samples ? *new_num_samples : size();
  check_num_samples(draws_, num_samples);
  begin_next_epoch(num_samples);
  epoch_draws_.clear();
}

void WeightedRandomSampler::save(torch::serialize::OutputArchive& archive) const {
  detail::StateWriter state(archive, kKind);
  state.word("replacement", draws_.index() == 0 ? 1 : 0);
  state.word("weights_hash", weights_hash_);
  save_place(state);
}

void WeightedRandomSampler::load(torch::serialize::InputArchive& archive) {
  const detail::StateReader state(archive, kKind);
  state.expect("replacement", draws_.index() == 0 ? 1 : 0, "replacement");
  state.expect("weights_hash", weights_hash_, "weights of the hash");
  check_num_samples(draws_, state.word("size"));
  load_place(state);
  epoch_draws_.clear();
}

void WeightedRandomSampler::fill(std::size_t first, std::span<std::size_t> indices) {
  if (const auto* table = std::get_if<detail::AliasTable>(&draws_)) {
    const std::uint64_t epoch_key = key();
    for (std::size_t i = 0; i < indices.size(); ++i) {
      indices[i] = (*table)(detail::random_word(epoch_key, first + i));
    }
    return;
  }
  if (epoch_draws_.empty()) {
    epoch_draws_ = std::get<detail::SuccessiveDraws>(draws_)(key(), size());
  }
  std::copy_n(epoch_draws_.begin() + static_cast<std::ptrdiff_t>(first), indices.size(), indices.begin());
}

}  // namespace torchfeed::samplers
