#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/detail/weighted_draws.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace torchfeed::samplers::detail {
namespace {

using Wide = unsigned __int128;

/// Integers in proportion to the weights, whose sum is at most 2^63.
std::vector<std::uint64_t> integer_masses(std::span<const double> weights) {
  const double largest = *std::max_element(weights.begin(), weights.end());
  const int bits = 63 - std::bit_width(weights.size() - 1);
  std::vector<std::uint64_t> masses;
  masses.reserve(weights.size());
  for (const double weight : weights) {
    const auto mass = static_cast<std::uint64_t>(std::round(std::ldexp(weight / largest, bits)));
    masses.push_back(weight > 0 ? std::max<std::uint64_t>(mass, 1) : 0);
  }
  return masses;
}

}  // namespace

AliasTable::AliasTable(std::span<const double> weights) : columns_(weights.size()) {
  const auto masses = integer_masses(weights);
  Wide total = 0;
  for (const std::uint64_t mass : masses) {
    total += mass;
  }
  // A column has room for `total`, and all masses times the number of columns just fill them.
  std::vector<Wide> left(masses.size());
  std::vector<std::size_t> small;
  std::vector<std::size_t> large;
  for (std::size_t i = 0; i < masses.size(); ++i) {
    left[i] = Wide{masses[i]} * masses.size();
    columns_[i] = {0, i};
    (left[i] < total ? small : large).push_back(i);
  }
  while (!small.empty()) {
    const std::size_t filled = small.back();
    const std::size_t filler = large.back();  // there is one, as the mean of what is left is `total`
    small.pop_back();
    columns_[filled] = {static_cast<std::uint64_t>((left[filled] << 64) / total), filler};
    left[filler] -= total - left[filled];
    if (left[filler] < total) {
      large.pop_back();
      small.push_back(filler);
    }
  }
}

std::size_t AliasTable::operator()(std::uint64_t word) const noexcept {
  // The word as a fraction, times the number of columns: its whole part is the column, the rest is as good as new.
  const Wide place = Wide{word} * columns_.size();
  const auto index = static_cast<std::size_t>(place >> 64);
  const Column& column = columns_[index];
  return static_cast<std::uint64_t>(place) < column.threshold ? index : column.alias;
}

SuccessiveDraws::SuccessiveDraws(std::span<const double> weights) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) {
      candidates_.push_back({i, weights[i]});
    }
  }
}

std::vector<std::size_t> SuccessiveDraws::operator()(std::uint64_t key, std::size_t count) const {
  struct Arrival {
    double time;
    std::size_t index;
  };
  std::vector<Arrival> arrivals;
  arrivals.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) {
    // 52 bits and a half: neither 0 nor 1.
    const double u = (static_cast<double>(random_word(key, candidate.index) >> 12) + 0.5) * 0x1p-52;
    arrivals.push_back({negative_log(u) / candidate.weight, candidate.index});
  }
  const auto is_earlier = [](const Arrival& one, const Arrival& other) {
    return one.time < other.time || (one.time == other.time && one.index < other.index);
  };
  const auto end = arrivals.begin() + static_cast<std::ptrdiff_t>(count);
  std::nth_element(arrivals.begin(), end, arrivals.end(), is_earlier);
  std::sort(arrivals.begin(), end, is_earlier);
  std::vector<std::size_t> indices;
  indices.reserve(count);
  std::for_each(arrivals.begin(), end, [&](const Arrival& arrival) { indices.push_back(arrival.index); });
  return indices;
}

// By the series of artanh, whose terms become less than 1e-17 of the sum. This file is compiled without fused
// multiplication and addition, which only some machines have.
double negative_log(double u) noexcept {
  int exponent = 0;
  double mantissa = std::frexp(u, &exponent);
  if (mantissa < 1 / std::numbers::sqrt2) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);  // -0.172 to 0.172
  const double square = s * s;
  double sum = 0;
  for (int term = 23; term > 0; term -= 2) {
    sum = sum * square + 1.0 / term;
  }
  return -(exponent * std::numbers::ln2 + 2 * s * sum);
}

}  // namespace torchfeed::samplers::detail
