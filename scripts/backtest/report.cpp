#include "report.h"

#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <numeric>

namespace torchfeed::backtest {
namespace {

template <typename... Parts>
std::string format(const char* pattern, Parts... parts) {
  char text[256];
  std::snprintf(text, sizeof(text), pattern, parts...);
  return text;
}

/// Over figures().
std::string heading() { return format("%8s%8s%8s%10s%10s", "return", "vol.", "Sharpe", "drawdown", "turnover"); }

std::string figures(const Metrics& metrics) {
  return format("%6.2f %%%6.1f %%%8.2f%8.1f %%%10.1f", 100 * metrics.annual_return, 100 * metrics.volatility,
                metrics.sharpe, 100 * metrics.max_drawdown, metrics.turnover);
}

std::string line(const std::string& name, const Metrics& metrics) {
  return format("  %-32s %s\n", name.c_str(), figures(metrics).c_str());
}

/// The shortest text that reads as the same number.
std::string exact(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return std::string(text, end);
}

}  // namespace

double median(std::vector<double> values) {
  const auto upper = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), upper, values.end());
  if (values.size() % 2 == 1) return *upper;
  return (*std::max_element(values.begin(), upper) + *upper) / 2;
}

std::string Report::date(std::size_t bar) const { return datasets::format_iso_date(dates_[bar]); }

std::string Report::grid_table(std::size_t top) const {
  std::vector<std::size_t> order(rows_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows_[a].whole.sharpe > rows_[b].whole.sharpe; });
  order.resize(std::min(top, order.size()));
  std::string text = format("%zu strategies in %s to %s, the best %zu in sample\n", rows_.size(), date(0).c_str(),
                            date(dates_.size() - 1).c_str(), order.size());
  text += format("  %-32s %s\n", "strategy", heading().c_str());
  for (const std::size_t i : order) text += line(grid_[i].name(), rows_[i].whole);
  return text + line("buy and hold", buy_and_hold(close_, 1, close_.size(), cost_rate_));
}

std::string Report::walk_forward_table(const WalkForward& result) const {
  const auto bars = [](std::size_t begin, std::size_t end) { return end - begin; };
  const Fold& first = result.choices.front().fold;
  std::string text =
      format("%zu folds, %zu bars to choose by the Sharpe ratio, the next %zu to trade what was chosen\n",
             result.choices.size(), bars(first.train_begin, first.test_begin), bars(first.test_begin, first.test_end));
  text += format("  %-25s %-24s %9s %s\n", "traded", "strategy", "in sample", heading().c_str());
  for (const Choice& choice : result.choices) {
    text += format("  %s..%s    %-24s %9.2f %s\n", date(choice.fold.test_begin).c_str(),
                   date(choice.fold.test_end - 1).c_str(), grid_[choice.strategy].name().c_str(), choice.train_sharpe,
                   figures(choice.test).c_str());
  }
  const Fold& last = result.choices.back().fold;
  text += format("out of sample, %s to %s\n", date(first.test_begin).c_str(), date(last.test_end - 1).c_str());
  return text + line("walk-forward", result.traded) + line("buy and hold", result.buy_and_hold);
}

std::string Report::csv(const std::vector<Fold>& folds) const {
  std::string text = "strategy,annual_return,volatility,sharpe,max_drawdown,turnover";
  for (const Fold& fold : folds) text += ",train_sharpe_" + date(fold.test_begin);
  text += '\n';
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Metrics& whole = rows_[i].whole;
    text += grid_[i].name();
    for (const double value :
         {whole.annual_return, whole.volatility, whole.sharpe, whole.max_drawdown, whole.turnover}) {
      text += ',' + exact(value);
    }
    for (const double value : rows_[i].train_sharpe) text += ',' + exact(value);
    text += '\n';
  }
  return text;
}

std::string speed_up_table(const std::vector<SpeedUp>& measured, int repeats) {
  std::string text = format("speed-up over one worker, medians of %d interleaved runs of the grid\n", repeats);
  for (const SpeedUp& one : measured) {
    text += format("  %-9s %4d %-8s %7.1f ms  against %7.1f ms  %5.2fx\n", one.mode.c_str(), one.workers,
                   one.workers == 1 ? "worker" : "workers", 1e3 * one.seconds, 1e3 * one.alone_seconds,
                   one.alone_seconds / one.seconds);
  }
  return text;
}

}  // namespace torchfeed::backtest
