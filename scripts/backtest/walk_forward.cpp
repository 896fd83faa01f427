#include "walk_forward.h"

#include <torchfeed/samplers/walk_forward.h>

#include <algorithm>
#include <string>

#include "../common/program.h"

namespace torchfeed::backtest {

std::vector<Fold> make_folds(std::size_t bars, std::size_t train, std::size_t test, std::size_t count) {
  const std::size_t returns = bars > 0 ? bars - 1 : 0;  // the first bar has none
  const samplers::WalkForwardOptions options{.train = train, .test = test, .folds = count};
  const std::size_t least = std::max<std::size_t>(count, 1);
  if (samplers::WalkForward::most_folds(returns, options) < least) {
    throw program::InputError("walk-forward folds: expected at least " + std::to_string(1 + train + least * test) +
                              " bars for " + std::to_string(least) + " of " + std::to_string(train) + " to train and " +
                              std::to_string(test) + " to test, got " + std::to_string(bars));
  }
  std::vector<Fold> result;
  for (const samplers::Fold& fold : samplers::WalkForward(returns, options)) {
    result.push_back({fold.train.begin + 1, fold.test.begin + 1, fold.test.end + 1});
  }
  return result;
}

GridRow evaluate(const Strategy& strategy, std::span<const double> close, const std::vector<Fold>& folds,
                 double cost_rate) {
  const Track track = simulate(close, positions(strategy, close), cost_rate);
  GridRow row{measure(track, 1, close.size()), {}};
  for (const Fold& fold : folds) row.train_sharpe.push_back(measure(track, fold.train_begin, fold.test_begin).sharpe);
  return row;
}

WalkForward walk_forward(const std::vector<Strategy>& grid, const std::vector<GridRow>& rows,
                         std::span<const double> close, const std::vector<Fold>& folds, double cost_rate) {
  WalkForward result;
  std::vector<double> held(close.size());
  for (std::size_t i = 0; i < folds.size(); ++i) {
    std::size_t best = 0;
    for (std::size_t s = 1; s < rows.size(); ++s) {
      if (rows[s].train_sharpe[i] > rows[best].train_sharpe[i]) best = s;
    }
    // The last close of training is where the test's first position is taken.
    const std::vector<double> chosen = positions(grid[best], close);
    std::copy(chosen.begin() + static_cast<std::ptrdiff_t>(folds[i].test_begin) - 1,
              chosen.begin() + static_cast<std::ptrdiff_t>(folds[i].test_end) - 1,
              held.begin() + static_cast<std::ptrdiff_t>(folds[i].test_begin) - 1);
    result.choices.push_back({folds[i], best, rows[best].train_sharpe[i], {}});
  }
  const Track track = simulate(close, held, cost_rate);
  for (Choice& choice : result.choices) choice.test = measure(track, choice.fold.test_begin, choice.fold.test_end);
  const std::size_t begin = folds.front().test_begin;
  const std::size_t end = folds.back().test_end;
  result.traded = measure(track, begin, end);
  result.buy_and_hold = buy_and_hold(close, begin, end, cost_rate);
  return result;
}

Metrics buy_and_hold(std::span<const double> close, std::size_t begin, std::size_t end, double cost_rate) {
  std::vector<double> held(close.size());
  std::fill(held.begin() + static_cast<std::ptrdiff_t>(begin) - 1, held.begin() + static_cast<std::ptrdiff_t>(end), 1);
  return measure(simulate(close, held, cost_rate), begin, end);
}

}  // namespace torchfeed::backtest
