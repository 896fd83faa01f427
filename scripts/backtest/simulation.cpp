#include "simulation.h"

#include <algorithm>
#include <cmath>

namespace torchfeed::backtest {

Track simulate(std::span<const double> close, std::span<const double> position, double cost_rate) {
  Track track{std::vector<double>(close.size()), std::vector<double>(close.size())};
  double before = 0;
  for (std::size_t t = 1; t < close.size(); ++t) {
    const double held = position[t - 1];
    track.traded[t] = std::abs(held - before);
    const double growth = close[t] / close[t - 1];
    track.net[t] = held * (growth - 1) - cost_rate * track.traded[t];
    const double equity = 1 + held * (growth - 1);
    before = held == 1 || equity <= 0 ? held : held * growth / equity;
  }
  return track;
}

Metrics measure(const Track& track, std::size_t begin, std::size_t end) {
  Metrics metrics;
  if (begin >= end) return metrics;
  const auto bars = static_cast<double>(end - begin);
  double sum = 0;
  double equity = 1;
  double peak = 1;
  for (std::size_t t = begin; t < end; ++t) {
    sum += track.net[t];
    metrics.turnover += track.traded[t];
    equity *= std::max(1 + track.net[t], 0.0);  // a short position can lose more than there is
    peak = std::max(peak, equity);
    metrics.max_drawdown = std::max(metrics.max_drawdown, 1 - equity / peak);
  }
  const double mean = sum / bars;
  double squares = 0;
  for (std::size_t t = begin; t < end; ++t) squares += (track.net[t] - mean) * (track.net[t] - mean);
  const double deviation = bars > 1 ? std::sqrt(squares / (bars - 1)) : 0;
  metrics.annual_return = std::pow(equity, kBarsPerYear / bars) - 1;
  metrics.volatility = deviation * std::sqrt(kBarsPerYear);
  metrics.sharpe = deviation > 0 ? mean / deviation * std::sqrt(kBarsPerYear) : 0;
  metrics.turnover *= kBarsPerYear / bars;
  return metrics;
}

}  // namespace torchfeed::backtest
