#include <torchfeed/datasets/features.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace torchfeed::datasets {
namespace {

constexpr double kWarmUp = std::numeric_limits<double>::quiet_NaN();

// log(a / b) as a difference, which no pair of finite numbers above zero overflows.
double log_ratio(double a, double b) { return std::log(a) - std::log(b); }

}  // namespace

std::vector<double> log_return(std::span<const double> close) {
  std::vector<double> out(close.size(), kWarmUp);
  for (size_t t = 1; t < out.size(); ++t) out[t] = log_ratio(close[t], close[t - 1]);
  return out;
}

std::vector<double> log_range(std::span<const double> high, std::span<const double> low) {
  std::vector<double> out(high.size());
  for (size_t t = 0; t < out.size(); ++t) out[t] = std::log(std::max(log_ratio(high[t], low[t]), kRangeFloor));
  return out;
}

std::vector<double> log_volume_change(std::span<const double> volume) {
  std::vector<double> out(volume.size(), kWarmUp);
  for (size_t t = 1; t < out.size(); ++t) {
    const bool known = volume[t] > 0 && volume[t - 1] > 0;
    out[t] = known ? log_ratio(volume[t], volume[t - 1]) : 0.0;
  }
  return out;
}

std::vector<double> log_close_open(std::span<const double> open, std::span<const double> close) {
  std::vector<double> out(open.size());
  for (size_t t = 0; t < out.size(); ++t) out[t] = log_ratio(close[t], open[t]);
  return out;
}

}  // namespace torchfeed::datasets
