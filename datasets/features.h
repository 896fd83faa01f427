#pragma once

#include <span>
#include <vector>

namespace torchfeed::datasets {

/// @file
/// Features of bars: pure functions over columns.
///
/// Every function takes columns of one length n, oldest bar first, and gives n numbers. The number at t depends on the
/// bars up to t alone, never on a later one. Where a bar lacks the history it needs the number is NaN; how many these
/// are (the warm-up) is said with each function. Prices must be above zero. Safe to call from any thread.

/// A bar's log(high / low) below this, one basis point, counts as this in `log_range`, so that bars that did not move
/// (high == low) have a finite value that is below all others.
inline constexpr double kRangeFloor = 1e-4;

/// log(close[t] / close[t - 1]). Warm-up: 1.
std::vector<double> log_return(std::span<const double> close);

/// log(max(log(high[t] / low[t]), kRangeFloor)), the log of the range of log prices: a measure of volatility whose
/// distribution is close to normal (Parkinson 1980, "The Extreme Value Method for Estimating the Variance of the Rate
/// of Return"; Alizadeh, Brandt and Diebold 2002, "Range-Based Estimation of Stochastic Volatility Models").
/// Warm-up: 0.
std::vector<double> log_range(std::span<const double> high, std::span<const double> low);

/// log(volume[t] / volume[t - 1]), and 0 where either is zero. Warm-up: 1.
std::vector<double> log_volume_change(std::span<const double> volume);

/// log(close[t] / open[t]). Warm-up: 0.
std::vector<double> log_close_open(std::span<const double> open, std::span<const double> close);

}  // namespace torchfeed::datasets
