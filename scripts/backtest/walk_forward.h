#pragma once

#include <torchfeed/plugin/batch_codec.h>

#include <cstddef>
#include <span>
#include <vector>

#include "simulation.h"
#include "strategy.h"

namespace torchfeed::backtest {

/// Returns [train_begin, test_begin) choose a strategy, which trades [test_begin, test_end).
struct Fold {
  std::size_t train_begin = 0;
  std::size_t test_begin = 0;
  std::size_t test_end = 0;
};

/// Folds of `train` and `test` bars, each `test` bars after the one before, so that their tests follow on each other;
/// the last ends with the data. `count` of them; 0: as many as there is data for. Throws program::InputError if that is
/// too little for the folds, or for one.
std::vector<Fold> make_folds(std::size_t bars, std::size_t train, std::size_t test, std::size_t count);

/// One strategy over the whole file, and in the training part of each fold.
struct GridRow {
  Metrics whole;
  std::vector<double> train_sharpe;

  bool operator==(const GridRow&) const = default;
};

/// A pure function: safe to call from any thread.
GridRow evaluate(const Strategy& strategy, std::span<const double> close, const std::vector<Fold>& folds,
                 double cost_rate);

/// What was chosen in one fold, and what came of it.
struct Choice {
  Fold fold;
  std::size_t strategy = 0;
  double train_sharpe = 0;
  Metrics test;
};

struct WalkForward {
  std::vector<Choice> choices;
  Metrics traded;        ///< over all tests, the changes from one strategy to the next paid for
  Metrics buy_and_hold;  ///< over the same bars
};

/// In each fold, the strategy with the best Sharpe ratio in training (of equals the first in the grid) is traded.
WalkForward walk_forward(const std::vector<Strategy>& grid, const std::vector<GridRow>& rows,
                         std::span<const double> close, const std::vector<Fold>& folds, double cost_rate);

/// Long from begin - 1 to end - 1, in one piece: the same bars as measure() of [begin, end).
Metrics buy_and_hold(std::span<const double> close, std::size_t begin, std::size_t end, double cost_rate);

}  // namespace torchfeed::backtest

/// So that rows come back from worker processes.
template <>
struct torchfeed::BatchCodec<torchfeed::backtest::GridRow> {
  static void encode(BatchWriter& writer, const backtest::GridRow& row) {
    writer.value(row.whole);
    BatchCodec<std::vector<double>>::encode(writer, row.train_sharpe);
  }
  static backtest::GridRow decode(BatchReader& reader) {
    backtest::GridRow row;
    row.whole = reader.value<backtest::Metrics>();
    row.train_sharpe = BatchCodec<std::vector<double>>::decode(reader);
    return row;
  }
};
