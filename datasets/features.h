#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace torchfeed::datasets {

/// @file
/// Features of bars: pure functions over columns. streaming_features.h has the same by name and bar by bar.
///
/// Every function takes columns of one length n, oldest bar first, and gives n numbers. The number at t depends on the
/// bars up to t alone, never on a later one. Where a bar lacks the history it needs the number is NaN; how many these
/// are (the warm-up) is said with each function. Everywhere else it is finite, as long as prices are above zero,
/// volumes are not below zero, and both stay between 1e-100 and 1e100. Safe to call from any thread.
///
/// Throws c10::ValueError for columns of different lengths and for a number of bars that is not in [1, 1,000,000] or
/// what is said otherwise.
///
/// Where a feature is in TA-Lib (ta-lib.org), definition, first value and warm-up are TA-Lib's in its
/// default compatibility mode; the tests compare with its numbers. Different on purpose are only the values where
/// nothing moved, which TA-Lib sets to 0, a strong signal for some of them: here they are the middle of the range.
///
/// Each costs O(1) a bar, amortised, whatever its window, and no error builds up over millions of bars: windows are
/// combined from parts, never updated by adding the new and taking away the old.

/// A bar's log(high / low) below this, one basis point, counts as this in `log_range`, so that bars that did not move
/// (high == low) have a finite value that is below all others.
inline constexpr double kRangeFloor = 1e-4;

/// @name Returns and ranges
/// @{

/// close[t] / close[t - bars] - 1. Warm-up: bars. TA-Lib's ROCP.
std::vector<double> simple_return(std::span<const double> close, int bars = 1);

/// log(close[t] / close[t - bars]). Warm-up: bars.
std::vector<double> log_return(std::span<const double> close, int bars = 1);

/// log(max(log(high[t] / low[t]), kRangeFloor)), the log of the range of log prices: a measure of volatility whose
/// distribution is close to normal (Parkinson 1980, "The Extreme Value Method for Estimating the Variance of the Rate
/// of Return"; Alizadeh, Brandt and Diebold 2002, "Range-Based Estimation of Stochastic Volatility Models").
/// Warm-up: 0.
std::vector<double> log_range(std::span<const double> high, std::span<const double> low);

/// log(volume[t] / volume[t - 1]), and 0 where either is zero. Warm-up: 1.
std::vector<double> log_volume_change(std::span<const double> volume);

/// log(close[t] / open[t]). Warm-up: 0.
std::vector<double> log_close_open(std::span<const double> open, std::span<const double> close);

/// @}
/// @name Means and trends
/// @{

/// Simple moving average: the mean of the last `bars` values. Warm-up: bars - 1. TA-Lib's SMA.
std::vector<double> sma(std::span<const double> values, int bars);

/// Exponential moving average: e[t] = e[t - 1] + (value[t] - e[t - 1]) * 2 / (bars + 1), where the first one is the
/// mean of the first `bars` values. Warm-up: bars - 1. TA-Lib's EMA.
std::vector<double> ema(std::span<const double> values, int bars);

/// See `macd`.
struct Macd {
  std::vector<double> line, signal, histogram;
};

/// Moving average convergence/divergence (Appel 1979): line = fast `ema` - slow `ema`, signal = `ema` of the line over
/// `signal` bars, histogram = line - signal. Both averages of the close have their first value at bar slow - 1, so that
/// the fast one starts with the mean of the `fast` bars up to there. Warm-up of all three: slow + signal - 2.
/// c10::ValueError unless fast < slow. TA-Lib's MACD.
Macd macd(std::span<const double> close, int fast = 12, int slow = 26, int signal = 9);

/// Volume-weighted average price of the last `bars` bars: the mean of their typical prices (high + low + close) / 3 by
/// volume, and this bar's typical price where none was traded in all of them. Warm-up: bars - 1. (TA-Lib has none.)
std::vector<double> vwap(std::span<const double> high, std::span<const double> low, std::span<const double> close,
                         std::span<const double> volume, int bars);

/// On-balance volume (Granville 1963): the volume so far, of bars that closed above the bar before with plus, of those
/// below with minus, starting with the first bar's volume. Warm-up: 0. TA-Lib's OBV.
std::vector<double> obv(std::span<const double> close, std::span<const double> volume);

/// @}
/// @name Oscillators
/// @{

/// Relative strength index, 0 to 100 (Wilder 1978, "New Concepts in Technical Trading Systems"): the share of gains in
/// the gains and losses of one bar, each smoothed by g[t] = (g[t - 1] * (bars - 1) + gain[t]) / bars, whose first value
/// is the mean of the first `bars`; 50 where nothing has moved. Warm-up: bars. TA-Lib's RSI.
std::vector<double> rsi(std::span<const double> close, int bars = 14);

/// See `stochastic`.
struct Stochastic {
  std::vector<double> k, d;
};

/// Stochastic oscillator (Lane 1984), in per cent: where the close is between the lowest low and the highest high of
/// the last `bars` bars, 50 where these are equal; k = its mean over `k_bars` (1 gives the "fast" one), d = the mean of
/// k over `d_bars`. Warm-up of both: bars + k_bars + d_bars - 3. TA-Lib's STOCH with simple averages.
Stochastic stochastic(std::span<const double> high, std::span<const double> low, std::span<const double> close,
                      int bars = 5, int k_bars = 3, int d_bars = 3);

/// (value - mean) / standard deviation of the last `bars` values, this one among them, with the population's deviation;
/// 0 where that is 0. Warm-up: bars - 1.
std::vector<double> zscore(std::span<const double> values, int bars);

/// @}
/// @name Volatility
/// @{

/// See `bollinger`.
struct Bollinger {
  std::vector<double> upper, middle, lower;
  std::vector<double> bandwidth;  ///< (upper - lower) / middle
  std::vector<double> percent_b;  ///< (close - lower) / (upper - lower), 0.5 where the bands meet
};

/// Bollinger bands (Bollinger 2001, "Bollinger on Bollinger Bands"): middle = `sma`, the others `deviations` times the
/// standard deviation (the population's) of the last `bars` closes above and below. Range of `deviations`: above 0, up
/// to 1,000. Warm-up of all: bars - 1. TA-Lib's BBANDS.
Bollinger bollinger(std::span<const double> close, int bars = 20, double deviations = 2);

/// Average true range (Wilder 1978): of max(high, previous close) - min(low, previous close), from the second bar on,
/// the mean of the first `bars`, then smoothed as in `rsi`. Warm-up: bars. TA-Lib's ATR.
std::vector<double> atr(std::span<const double> high, std::span<const double> low, std::span<const double> close,
                        int bars = 14);

/// The standard deviation (the population's) of the last `bars` `log_return`s, a bar's, not a year's. Warm-up: bars.
std::vector<double> volatility(std::span<const double> close, int bars);

/// @}
/// @name Calendar
/// Points on a circle, so that December is beside January. Of times in nanoseconds since 1970-01-01 UTC. Warm-up: 0.
/// @{

/// The sine and the cosine of an angle.
struct Cycle {
  std::vector<double> sine, cosine;
};

/// Angle 2 pi d / 7, where d is 0 on Monday and 6 on Sunday.
Cycle day_of_week(std::span<const std::int64_t> times);

/// Angle 2 pi m / 12, where m is 0 in January and 11 in December.
Cycle month(std::span<const std::int64_t> times);

/// Angle 2 pi h / 24, where h is the time of day in hours, with their fractions.
Cycle hour_of_day(std::span<const std::int64_t> times);

/// @}

}  // namespace torchfeed::datasets
