#pragma once

#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/features/feature.h>
#include <torchfeed/datasets/features/parameters.h>
#include <torchfeed/datasets/features/window.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace torchfeed::datasets::features {

// Returns, ranges, means and trends, defined in features.h. A class here is a definition's memory.

/// A column as it is.
template <Column kColumn>
struct PassThrough {
  using Inputs = features::Inputs<kColumn>;
  static constexpr std::size_t kOutputs = 1;

  static std::size_t warm_up() { return 0; }
  static std::array<double, 1> push(double value) { return {value}; }
  template <typename State>
  void visit(State& /*state*/) {}
};

class SimpleReturn {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit SimpleReturn(int bars) : bars_(checked_bars("return", "bars", bars)), lag_(bars_) {}

  std::size_t warm_up() const { return bars_; }
  std::array<double, 1> push(double close) { return {close / lag_.push(close) - 1}; }
  template <typename State>
  void visit(State& state) {
    lag_.visit(state);
  }

 private:
  std::size_t bars_;
  Lag lag_;
};

/// Ratios are differences of logarithms, which no pair of finite numbers above zero overflows.
class LogReturn {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit LogReturn(int bars) : bars_(checked_bars("log_return", "bars", bars)), lag_(bars_) {}

  std::size_t warm_up() const { return bars_; }
  std::array<double, 1> push(double close) {
    const double log_close = std::log(close);
    return {log_close - lag_.push(log_close)};
  }
  template <typename State>
  void visit(State& state) {
    lag_.visit(state);
  }

 private:
  std::size_t bars_;
  Lag lag_;
};

struct LogRange {
  using Inputs = features::Inputs<kHigh, kLow>;
  static constexpr std::size_t kOutputs = 1;

  static std::size_t warm_up() { return 0; }
  static std::array<double, 1> push(double high, double low) {
    return {std::log(std::max(std::log(high) - std::log(low), kRangeFloor))};
  }
  template <typename State>
  void visit(State& /*state*/) {}
};

class LogVolumeChange {
 public:
  using Inputs = features::Inputs<kVolume>;
  static constexpr std::size_t kOutputs = 1;

  static std::size_t warm_up() { return 1; }
  std::array<double, 1> push(double volume) {
    const bool traded = volume > 0;
    const double log_volume = traded ? std::log(volume) : 0;
    const double change = traded && traded_ ? log_volume - log_volume_ : 0;
    traded_ = traded;
    log_volume_ = log_volume;
    return {change};
  }
  template <typename State>
  void visit(State& state) {
    state.flag(traded_);
    state.number(log_volume_);
  }

 private:
  bool traded_ = false;
  double log_volume_ = 0;
};

struct LogCloseOpen {
  using Inputs = features::Inputs<kOpen, kClose>;
  static constexpr std::size_t kOutputs = 1;

  static std::size_t warm_up() { return 0; }
  static std::array<double, 1> push(double open, double close) { return {std::log(close) - std::log(open)}; }
  template <typename State>
  void visit(State& /*state*/) {}
};

class SimpleAverage {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit SimpleAverage(int bars) : bars_(checked_bars("sma", "bars", bars)), window_(bars_) {}

  std::size_t warm_up() const { return bars_ - 1; }
  std::array<double, 1> push(double value) { return {window_.push(value).mean}; }
  template <typename State>
  void visit(State& state) {
    window_.visit(state);
  }

 private:
  std::size_t bars_;
  WindowMoments window_;
};

/// The weight of a new value in an exponential average over `bars`.
inline double exponential_weight(std::size_t bars) { return 2 / (static_cast<double>(bars) + 1); }

class ExponentialAverage {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 1;

  explicit ExponentialAverage(int bars)
      : bars_(checked_bars("ema", "bars", bars)), average_(bars_, exponential_weight(bars_)) {}

  std::size_t warm_up() const { return bars_ - 1; }
  std::array<double, 1> push(double value) { return {average_.push(value)}; }
  template <typename State>
  void visit(State& state) {
    average_.visit(state);
  }

 private:
  std::size_t bars_;
  Smoothing average_;
};

class AverageConvergence {
 public:
  using Inputs = features::Inputs<kClose>;
  static constexpr std::size_t kOutputs = 3;

  AverageConvergence(int fast, int slow, int signal)
      : warm_up_(checked_bars("macd", "slow", slow) + checked_bars("macd", "signal", signal) - 2),
        skip_(static_cast<std::size_t>(slow) -
              std::min(checked_bars("macd", "fast", fast), static_cast<std::size_t>(slow))),
        fast_(static_cast<std::size_t>(fast), exponential_weight(static_cast<std::size_t>(fast))),
        slow_(static_cast<std::size_t>(slow), exponential_weight(static_cast<std::size_t>(slow))),
        signal_(static_cast<std::size_t>(signal), exponential_weight(static_cast<std::size_t>(signal))) {
    check_order("macd", fast, slow);
  }

  std::size_t warm_up() const { return warm_up_; }
  std::array<double, 3> push(double close) {
    const double slow = slow_.push(close);
    if (skipped_ < skip_) {
      ++skipped_;
      return {};
    }
    const double line = fast_.push(close) - slow;
    if (!slow_.full()) return {};
    const double signal = signal_.push(line);
    return {line, signal, line - signal};
  }
  template <typename State>
  void visit(State& state) {
    fast_.visit(state);
    slow_.visit(state);
    signal_.visit(state);
    state.index(skipped_, skip_ + 1);
  }

 private:
  std::size_t warm_up_;
  std::size_t skip_;  // bars before the fast average starts, so that both have their first value at once
  Smoothing fast_, slow_, signal_;
  std::size_t skipped_ = 0;
};

class VolumeWeightedPrice {
 public:
  using Inputs = features::Inputs<kHigh, kLow, kClose, kVolume>;
  static constexpr std::size_t kOutputs = 1;

  explicit VolumeWeightedPrice(int bars) : bars_(checked_bars("vwap", "bars", bars)), paid_(bars_), volume_(bars_) {}

  std::size_t warm_up() const { return bars_ - 1; }
  std::array<double, 1> push(double high, double low, double close, double volume) {
    const double price = (high + low + close) / 3;
    const double paid = paid_.push(price * volume);
    const double traded = volume_.push(volume);
    return {traded > 0 ? paid / traded : price};
  }
  template <typename State>
  void visit(State& state) {
    paid_.visit(state);
    volume_.visit(state);
  }

 private:
  std::size_t bars_;
  WindowFold<Sum> paid_, volume_;
};

class OnBalanceVolume {
 public:
  using Inputs = features::Inputs<kClose, kVolume>;
  static constexpr std::size_t kOutputs = 1;

  static std::size_t warm_up() { return 0; }
  std::array<double, 1> push(double close, double volume) {
    if (!started_) {
      started_ = true;
      sum_ = volume;
    } else {
      add(close > close_ ? volume : (close < close_ ? -volume : 0));
    }
    close_ = close;
    return {sum_ + lost_};
  }
  template <typename State>
  void visit(State& state) {
    state.flag(started_);
    state.number(close_);
    state.number(sum_);
    state.number(lost_);
  }

 private:
  /// Keeps what rounding loses, so that millions of bars lose nothing (Neumaier 1974).
  void add(double volume) {
    const double sum = sum_ + volume;
    lost_ += std::abs(sum_) >= std::abs(volume) ? (sum_ - sum) + volume : (volume - sum) + sum_;
    sum_ = sum;
  }

  bool started_ = false;
  double close_ = 0;
  double sum_ = 0;
  double lost_ = 0;
};

}  // namespace torchfeed::datasets::features
