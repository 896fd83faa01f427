#include "options.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <sstream>

#include "../common/command_line.h"
#include "../common/program.h"

namespace torchfeed::backtest {
namespace {

constexpr std::int64_t kMostBars = 1'000'000;
constexpr std::int64_t kMostWorkers = 1024;
constexpr double kMostCosts = 10'000;

void add_options(CLI::App& app, Options& options) {
  app.add_option("--data", options.data, "CSV of daily bars: date, open, high, low, close, volume")
      ->capture_default_str();
  app.add_option("--costs-bps", options.costs_bps, "Cost of buying or selling, in hundredths of a percent")
      ->capture_default_str();
  app.add_option("--train-bars", options.train_bars, "Bars in which a fold's strategy is chosen")
      ->check(CLI::Range(std::int64_t{2}, kMostBars))
      ->capture_default_str();
  app.add_option("--test-bars", options.test_bars, "Bars after those, in which it is traded")
      ->check(CLI::Range(std::int64_t{1}, kMostBars))
      ->capture_default_str();
  app.add_option("--folds", options.folds, "Walk-forward folds, the last ones; 0: as many as the data has")
      ->check(CLI::Range(std::int64_t{0}, kMostBars))
      ->capture_default_str();
  app.add_option("--top", options.top, "Strategies in the table")
      ->check(CLI::Range(std::int64_t{0}, kMostBars))
      ->capture_default_str();
  app.add_option("--csv", options.csv, "File for the figures of all strategies");
  app.add_option("--mode", options.mode, "Workers: threads, processes or both, one after the other")
      ->check(CLI::IsMember({"threads", "processes", "both"}))
      ->capture_default_str();
  app.add_option("--workers", options.workers, "Workers; -1: from the threading plan")
      ->check(CLI::Range(std::int64_t{-1}, kMostWorkers))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "Runs of each mode to measure the speed-up; 0: do not")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_flag("--quiet", options.quiet, "No progress on stderr");
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
  Options options;
  CLI::App app(
      std::string("Trades daily bars by a grid of strategies (crossovers of moving averages, momentum, reversion of\n"
                  "the relative strength index; long or flat, long or short), then walks forward: in each fold the\n"
                  "best of the grid is traded in the bars after those in which it was the best. The grid is computed\n"
                  "by parallel_map. No look ahead:\n") +
      kTimingNote + ".");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_options(app, options);
  if (!program::parse(app, argc, argv)) return std::nullopt;
  // CLI::Range lets NaN through.
  if (!(options.costs_bps >= 0 && options.costs_bps <= kMostCosts)) {
    std::ostringstream message;
    message << "--costs-bps: expected a number from 0 to " << kMostCosts << ", got " << options.costs_bps;
    throw program::InputError(message.str());
  }
  return options;
}

}  // namespace torchfeed::backtest
