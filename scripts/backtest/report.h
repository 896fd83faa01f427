#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "walk_forward.h"

namespace torchfeed::backtest {

/// Of one value or more; of an even number the mean of the middle two.
double median(std::vector<double> values);

/// How often a mode was faster than one worker.
struct SpeedUp {
  std::string mode;
  int workers = 0;
  double alone_seconds = 0;
  double seconds = 0;
};

/// What a run has found, as texts.
class Report {
 public:
  /// All of one length, but for `dates` and `close`, which have one entry a bar; they outlive this.
  Report(const std::vector<Strategy>& grid, const std::vector<GridRow>& rows, const std::vector<int32_t>& dates,
         const std::vector<double>& close, double cost_rate)
      : grid_(grid), rows_(rows), dates_(dates), close_(close), cost_rate_(cost_rate) {}

  /// The `top` strategies by Sharpe ratio over the whole file, and buy and hold.
  std::string grid_table(std::size_t top) const;
  /// Fold by fold, then all of them and buy and hold.
  std::string walk_forward_table(const WalkForward& result) const;
  /// One line a strategy, in the grid's order: its name, its figures over the whole file, its Sharpe ratio in training
  /// of each fold. Numbers as exact as they are.
  std::string csv(const std::vector<Fold>& folds) const;

 private:
  std::string date(std::size_t bar) const;

  const std::vector<Strategy>& grid_;
  const std::vector<GridRow>& rows_;
  const std::vector<int32_t>& dates_;
  const std::vector<double>& close_;
  double cost_rate_;
};

std::string speed_up_table(const std::vector<SpeedUp>& measured, int repeats);

}  // namespace torchfeed::backtest
