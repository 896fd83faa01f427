#pragma once

#include <torch/data/samplers/base.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

namespace torchfeed::testing {

using AnySampler = torch::data::samplers::Sampler<>;

/// All indices up to the end of the epoch.
inline std::vector<std::size_t> rest_of_epoch(AnySampler& sampler, std::size_t batch_size = 7) {
  std::vector<std::size_t> all;
  while (auto batch = sampler.next(batch_size)) {
    all.insert(all.end(), batch->begin(), batch->end());
  }
  return all;
}

/// By save() and load(), through bytes.
inline void copy_state(const AnySampler& from, AnySampler& to) {
  torch::serialize::OutputArchive out;
  from.save(out);
  std::stringstream stream;
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  to.load(in);
}

/// The message of what `action` throws; empty if nothing.
template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

inline std::vector<std::size_t> sorted(std::vector<std::size_t> indices) {
  std::sort(indices.begin(), indices.end());
  return indices;
}

/// 0 to size - 1.
inline std::vector<std::size_t> counting_up(std::size_t size) {
  std::vector<std::size_t> indices(size);
  std::iota(indices.begin(), indices.end(), std::size_t{0});
  return indices;
}

/// Five standard deviations above the mean of a chi-square distribution: one chance in millions for a fair source, and
/// as seeds are fixed, the same outcome in every run.
inline double chi_square_limit(double degrees_of_freedom) {
  return degrees_of_freedom + 5 * std::sqrt(2 * degrees_of_freedom);
}

/// Of counts that should be in proportion to `shares`.
inline double chi_square(const std::vector<std::size_t>& counts, const std::vector<double>& shares) {
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::size_t{0}));
  const double largest = *std::max_element(shares.begin(), shares.end());  // the sum of all might be infinite
  const double all_shares = std::accumulate(shares.begin(), shares.end(), 0.0,
                                            [&](double sum, double share) { return sum + share / largest; });
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = total * (shares[i] / largest) / all_shares;
    sum += std::pow(static_cast<double>(counts[i]) - expected, 2) / expected;
  }
  return sum;
}

/// Of counts that should be equal.
inline double chi_square(const std::vector<std::size_t>& counts) {
  return chi_square(counts, std::vector<double>(counts.size(), 1.0));
}

}  // namespace torchfeed::testing
