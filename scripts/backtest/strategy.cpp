#include "strategy.h"

#include <torchfeed/datasets/features.h>

#include <cmath>
#include <cstddef>
#include <cstdio>

namespace torchfeed::backtest {
namespace {

template <typename... Parts>
std::string format(const char* pattern, Parts... parts) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, parts...);
  return text;
}

std::string name_of(const Crossover& rule) { return format("crossover %d/%d", rule.fast, rule.slow); }
std::string name_of(const Momentum& rule) { return format("momentum %d > %g %%", rule.bars, 100 * rule.threshold); }
std::string name_of(const Reversion& rule) { return format("reversion %d: %g..%g", rule.bars, rule.enter, rule.leave); }

std::vector<double> positions_of(const Crossover& rule, bool shorts, std::span<const double> close) {
  const auto fast = datasets::sma(close, rule.fast);
  const auto slow = datasets::sma(close, rule.slow);
  std::vector<double> position(close.size());
  for (std::size_t t = 0; t < close.size(); ++t) {
    if (std::isnan(fast[t]) || std::isnan(slow[t])) continue;
    position[t] = fast[t] > slow[t] ? 1 : (shorts && fast[t] < slow[t] ? -1 : 0);
  }
  return position;
}

std::vector<double> positions_of(const Momentum& rule, bool shorts, std::span<const double> close) {
  std::vector<double> position(close.size());
  for (auto t = static_cast<std::size_t>(rule.bars); t < close.size(); ++t) {
    const double gain = close[t] / close[t - static_cast<std::size_t>(rule.bars)] - 1;
    position[t] = gain > rule.threshold ? 1 : (shorts && gain < -rule.threshold ? -1 : 0);
  }
  return position;
}

std::vector<double> positions_of(const Reversion& rule, bool shorts, std::span<const double> close) {
  const auto strength = datasets::rsi(close, rule.bars);
  std::vector<double> position(close.size());
  double now = 0;
  for (std::size_t t = 0; t < close.size(); ++t) {
    if (std::isnan(strength[t])) continue;
    if ((now > 0 && strength[t] > rule.leave) || (now < 0 && strength[t] < 100 - rule.leave)) now = 0;
    if (now == 0 && strength[t] < rule.enter) now = 1;
    if (now == 0 && shorts && strength[t] > 100 - rule.enter) now = -1;
    position[t] = now;
  }
  return position;
}

}  // namespace

std::string Strategy::name() const {
  return std::visit([](const auto& parameters) { return name_of(parameters); }, rule) + (shorts ? " short" : "");
}

std::vector<double> positions(const Strategy& strategy, std::span<const double> close) {
  return std::visit([&](const auto& rule) { return positions_of(rule, strategy.shorts, close); }, strategy.rule);
}

std::vector<Strategy> make_grid() {
  std::vector<Strategy> grid;
  for (const bool shorts : {false, true}) {
    for (int fast = 2; fast <= 60; ++fast) {
      for (int slow = 20; slow <= 250; slow += 10) {
        if (fast < slow) grid.push_back({Crossover{fast, slow}, shorts});
      }
    }
    for (int bars = 5; bars <= 250; bars += 5) {
      for (const double threshold : {0.0, 0.01, 0.02, 0.05, 0.1}) grid.push_back({Momentum{bars, threshold}, shorts});
    }
    for (int bars = 2; bars <= 28; ++bars) {
      for (const double enter : {10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0}) {
        for (const double leave : {45.0, 50.0, 55.0, 60.0, 65.0, 70.0}) {
          grid.push_back({Reversion{bars, enter, leave}, shorts});
        }
      }
    }
  }
  return grid;
}

}  // namespace torchfeed::backtest
