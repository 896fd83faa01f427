#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace torchfeed::backtest {

/// For --help and the tables.
inline constexpr const char* kTimingNote =
    "positions are decided from the closes up to a day's, that one too, and taken at that same close";

/// What the command line says.
struct Options {
  /// The S&P 500 file that comes with torchfeed, unless it is moved.
  std::string data = TORCHFEED_DATA_DIR "/sp500.csv";
  std::string csv;
  std::string mode = "both";
  std::int64_t workers = -1;
  std::int64_t train_bars = 1260;
  std::int64_t test_bars = 252;
  std::int64_t folds = 0;
  std::int64_t top = 10;
  int repeats = 5;
  double costs_bps = 1;
  bool quiet = false;

  bool threads() const { return mode != "processes"; }
  bool processes() const { return mode != "threads"; }
  /// Of the equity, for a position that changes by 1.
  double cost_rate() const { return costs_bps * 1e-4; }
};

/// None where help was asked for and printed. Throws program::InputError for what cannot be.
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace torchfeed::backtest
