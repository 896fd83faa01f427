/// Trades the bars of a file by a grid of strategies, in sample and walking forward, with parallel_map.

#include <torchfeed/datasets/csv_reader.h>
#include <torchfeed/plugin/parallel_map.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ranges>
#include <stdexcept>
#include <string>
#include <vector>

#include "backtest/options.h"
#include "backtest/report.h"
#include "backtest/strategy.h"
#include "backtest/walk_forward.h"
#include "common/files.h"
#include "common/program.h"

namespace torchfeed::backtest {
namespace {

/// The grid over the bars of a file.
class GridRun {
 public:
  GridRun(const std::vector<double>& close, const std::vector<Fold>& folds, double cost_rate)
      : close_(close), folds_(folds), cost_rate_(cost_rate), grid_(make_grid()) {}

  const std::vector<Strategy>& grid() const { return grid_; }

  std::vector<GridRow> compute(const ParallelOptions& options) const {
    return parallel_map([this](const Strategy& strategy) { return evaluate(strategy, close_, folds_, cost_rate_); },
                        grid_, options);
  }

 private:
  const std::vector<double>& close_;
  const std::vector<Fold>& folds_;
  double cost_rate_;
  std::vector<Strategy> grid_;
};

/// Workers for the grid, of which there are far more strategies than workers.
std::int64_t resolve_workers(std::int64_t workers) {
  if (workers >= 0) return std::max<std::int64_t>(workers, 1);
  return std::max(1, ThreadingOptimizer().calculate_optimal_workers().preprocessing);
}

/// Times the grid by one worker and by each mode in turn, so that what else the machine does hits all alike. Throws if
/// any of them finds other figures than `rows`.
std::vector<SpeedUp> measure_speed_up(const GridRun& run, const std::vector<ParallelOptions>& modes,
                                      const std::vector<GridRow>& rows, int repeats) {
  const auto seconds = [&](const ParallelOptions& options) {
    const auto begin = std::chrono::steady_clock::now();
    const auto again = run.compute(options);
    const auto end = std::chrono::steady_clock::now();
    if (again != rows) throw std::logic_error("another number of workers has led to other figures");
    return std::chrono::duration<double>(end - begin).count();
  };
  std::vector<double> alone;
  std::vector<std::vector<double>> together(modes.size());
  for (int i = 0; i < repeats; ++i) {
    alone.push_back(seconds({.max_workers = 1}));
    for (std::size_t mode = 0; mode < modes.size(); ++mode) together[mode].push_back(seconds(modes[mode]));
  }
  std::vector<SpeedUp> measured;
  for (std::size_t mode = 0; mode < modes.size(); ++mode) {
    measured.push_back({modes[mode].use_processes ? "processes" : "threads", static_cast<int>(modes[mode].max_workers),
                        median(alone), median(together[mode])});
  }
  return measured;
}

int run(int argc, char** argv) {
  const auto options = parse_options(argc, argv);
  if (!options) return 0;
  const auto prices = datasets::read_prices(options->data);
  const auto folds = make_folds(prices.size(), static_cast<std::size_t>(options->train_bars),
                                static_cast<std::size_t>(options->test_bars), static_cast<std::size_t>(options->folds));
  std::vector<ParallelOptions> modes;
  const std::int64_t workers = resolve_workers(options->workers);
  if (options->threads()) modes.push_back({.max_workers = workers});
  if (options->processes()) modes.push_back({.max_workers = workers, .use_processes = true});

  const GridRun grid(prices.close, folds, options->cost_rate());
  ParallelOptions first = modes.front();
  first.show_progress = !options->quiet;
  const auto rows = grid.compute(first);
  const Report report(grid.grid(), rows, prices.date, prices.close, options->cost_rate());
  if (!options->csv.empty()) program::write_file_atomically(options->csv, report.csv(folds));
  std::printf("%s: %zu bars, a trade costs %g bps\n", options->data.c_str(), prices.size(), options->costs_bps);
  std::printf("return, volatility, Sharpe ratio and turnover are a year's; drawdown is of the whole time\n");
  std::printf("%s\n\n", kTimingNote);
  std::printf("%s\n", report.grid_table(static_cast<std::size_t>(options->top)).c_str());
  const auto result = walk_forward(grid.grid(), rows, prices.close, folds, options->cost_rate());
  std::printf("%s\n", report.walk_forward_table(result).c_str());
  std::fflush(stdout);
  if (options->repeats > 0) {
    const auto measured = measure_speed_up(grid, modes, rows, options->repeats);
    std::printf("%s", speed_up_table(measured, options->repeats).c_str());
  }
  return 0;
}

}  // namespace
}  // namespace torchfeed::backtest

int main(int argc, char** argv) {
  return torchfeed::program::run("backtest", [&] { return torchfeed::backtest::run(argc, argv); });
}
