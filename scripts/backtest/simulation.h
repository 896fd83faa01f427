#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace torchfeed::backtest {

/// Trading days in a year, to turn what is measured a bar into what it is a year.
inline constexpr double kBarsPerYear = 252;

/// What positions have earned, bar by bar. The number at t belongs to the time from close t - 1 to close t; at 0, where
/// there is no close before, it is 0.
struct Track {
  std::vector<double> net;     ///< return after costs, a fraction of the equity
  std::vector<double> traded;  ///< part of the equity that was bought or sold at close t - 1
};

/// `position[t]`, a part of the equity, is decided at close t and taken there, and earns close[t + 1] / close[t] - 1.
/// Until the next close it drifts, as price and equity change, but for a position of all of the equity or none: what is
/// bought or sold then is the difference, so that a short position is rebalanced at each close. To trade the whole
/// equity costs `cost_rate` of it; before the first close the position is 0. Positions and closes are of one length.
Track simulate(std::span<const double> close, std::span<const double> position, double cost_rate);

/// Figures of a track's bars.
struct Metrics {
  double annual_return = 0;  ///< growth a year, compounded
  double volatility = 0;     ///< standard deviation (of the sample) a year
  double sharpe = 0;         ///< mean / standard deviation a year, against no interest; 0 where nothing varies
  double max_drawdown = 0;   ///< largest loss from a peak of the equity, as a fraction of that peak
  double turnover = 0;       ///< traded a year, in equities

  bool operator==(const Metrics&) const = default;
};

/// Of the returns in [begin, end). All 0 for no bars.
Metrics measure(const Track& track, std::size_t begin, std::size_t end);

}  // namespace torchfeed::backtest
