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

/// `position[t]`, decided at close t, earns close[t + 1] / close[t] - 1. A change of the position by 1 costs
/// `cost_rate` of the equity; before the first close it is 0. Positions and closes are of one length.
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
