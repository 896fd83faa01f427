#pragma once

#include <span>
#include <string>
#include <variant>
#include <vector>

namespace torchfeed::backtest {

/// In while the mean of the last `fast` closes is above that of the last `slow`.
struct Crossover {
  int fast = 0;
  int slow = 0;
};

/// In while the close is more than `threshold` (a fraction) above that of `bars` ago.
struct Momentum {
  int bars = 0;
  double threshold = 0;
};

/// In when the relative strength index over `bars` falls below `enter`, out again when it is above `leave`.
struct Reversion {
  int bars = 0;
  double enter = 0;
  double leave = 0;
};

/// A rule with its parameters. `shorts`: it is also short, where the rule's mirror image is in.
struct Strategy {
  std::variant<Crossover, Momentum, Reversion> rule;
  bool shorts = false;

  /// "crossover 10/100", "momentum 120 > 2 % short", "reversion 14: 30..60".
  std::string name() const;
};

/// Position at each close: 1 long, 0 flat, -1 short; 0 while the rule lacks history. The one at t is decided from
/// closes up to t alone, and held until the next.
std::vector<double> positions(const Strategy& strategy, std::span<const double> close);

/// All strategies to compare: some 5,000, in an order that never changes.
std::vector<Strategy> make_grid();

}  // namespace torchfeed::backtest
