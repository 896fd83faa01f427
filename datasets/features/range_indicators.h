#pragma once

#include <torchfeed/datasets/features/feature.h>
#include <torchfeed/datasets/features/parameters.h>
#include <torchfeed/datasets/features/window.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

namespace torchfeed::datasets::features {

// Oscillators and volatility, defined in features.h. A class here is a definition's memory.

/// The weight of a new value in Wilder's smoothing over `bars`.
inline double wilder_weight(std::size_t bars) { return 1 / static_cast<double>(bars); }

class RelativeStrength {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit RelativeStrength(int bars)
      : bars_(checked_bars("rsi", "bars", bars)),
        gain_(bars_, wilder_weight(bars_)),
        loss_(bars_, wilder_weight(bars_)) {}

  std::size_t warm_up() const { return bars_; }
  std::array<double, 1> push(double close) {
    const double change = close - std::exchange(close_, close);
    if (!std::exchange(started_, true)) return {};
    const double gain = gain_.push(std::max(change, 0.0));
    const double loss = loss_.push(std::max(-change, 0.0));
    return {gain + loss > 0 ? 100 * (gain / (gain + loss)) : 50};
  }
  template <typename State>
  void visit(State& state) {
    gain_.visit(state);
    loss_.visit(state);
    state.number(close_);
    state.flag(started_);
  }

 private:
  std::size_t bars_;
  Smoothing gain_, loss_;
  double close_ = 0;
  bool started_ = false;
};

class StochasticOscillator {
 public:
  using Inputs = features::Inputs<kHigh, kLow, kClose>;
  static constexpr std::size_t kOutputs = 2;

  StochasticOscillator(int bars, int k_bars, int d_bars)
      : highest_(checked_bars("stochastic", "bars", bars)),
        lowest_(static_cast<std::size_t>(bars)),
        k_(checked_bars("stochastic", "k_bars", k_bars)),
        d_(checked_bars("stochastic", "d_bars", d_bars)),
        warm_up_(static_cast<std::size_t>(bars) + static_cast<std::size_t>(k_bars) + static_cast<std::size_t>(d_bars) -
                 3) {}

  std::size_t warm_up() const { return warm_up_; }
  std::array<double, 2> push(double high, double low, double close) {
    const double highest = highest_.push(high);
    const double lowest = lowest_.push(low);
    if (!highest_.full()) return {};
    const double k = k_.push(highest > lowest ? 100 * ((close - lowest) / (highest - lowest)) : 50).mean;
    if (!k_.full()) return {};
    return {k, d_.push(k).mean};
  }
  template <typename State>
  void visit(State& state) {
    highest_.visit(state);
    lowest_.visit(state);
    k_.visit(state);
    d_.visit(state);
  }

 private:
  WindowFold<Greatest> highest_;
  WindowFold<Least> lowest_;
  WindowMoments k_, d_;
  std::size_t warm_up_;
};

class StandardScore {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit StandardScore(int bars) : bars_(checked_bars("zscore", "bars", bars)), window_(bars_) {}

  std::size_t warm_up() const { return bars_ - 1; }
  std::array<double, 1> push(double value) {
    const Moments moments = window_.push(value);
    return {moments.variance > 0 ? moments.deviation / std::sqrt(moments.variance) : 0};
  }
  template <typename State>
  void visit(State& state) {
    window_.visit(state);
  }

 private:
  std::size_t bars_;
  WindowMoments window_;
};

class BollingerBands {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 5;

  BollingerBands(int bars, double deviations)
      : bars_(checked_bars("bollinger", "bars", bars)),
        deviations_(checked_deviations("bollinger", deviations)),
        window_(bars_) {}

  std::size_t warm_up() const { return bars_ - 1; }
  std::array<double, 5> push(double close) {
    const Moments moments = window_.push(close);
    const double reach = deviations_ * std::sqrt(moments.variance);
    return {moments.mean + reach, moments.mean, moments.mean - reach, 2 * reach / moments.mean,
            reach > 0 ? 0.5 + moments.deviation / (2 * reach) : 0.5};
  }
  template <typename State>
  void visit(State& state) {
    window_.visit(state);
  }

 private:
  std::size_t bars_;
  double deviations_;
  WindowMoments window_;
};

class AverageTrueRange {
 public:
  using Inputs = features::Inputs<kHigh, kLow, kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit AverageTrueRange(int bars)
      : bars_(checked_bars("atr", "bars", bars)), average_(bars_, wilder_weight(bars_)) {}

  std::size_t warm_up() const { return bars_; }
  std::array<double, 1> push(double high, double low, double close) {
    const double before = std::exchange(close_, close);
    if (!std::exchange(started_, true)) return {};
    return {average_.push(std::max(high, before) - std::min(low, before))};
  }
  template <typename State>
  void visit(State& state) {
    average_.visit(state);
    state.number(close_);
    state.flag(started_);
  }

 private:
  std::size_t bars_;
  Smoothing average_;
  double close_ = 0;
  bool started_ = false;
};

class Volatility {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit Volatility(int bars) : bars_(checked_bars("volatility", "bars", bars)), window_(bars_) {}

  std::size_t warm_up() const { return bars_; }
  std::array<double, 1> push(double close) {
    const double log_close = std::log(close);
    const double log_return = log_close - std::exchange(log_close_, log_close);
    if (!std::exchange(started_, true)) return {};
    return {std::sqrt(window_.push(log_return).variance)};
  }
  template <typename State>
  void visit(State& state) {
    window_.visit(state);
    state.number(log_close_);
    state.flag(started_);
  }

 private:
  std::size_t bars_;
  WindowMoments window_;
  double log_close_ = 0;
  bool started_ = false;
};

}  // namespace torchfeed::datasets::features
