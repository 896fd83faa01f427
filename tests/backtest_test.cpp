// The backtest's figures by hand, its blindness to the future, and the program as users run it.
#include <torchfeed/datasets/csv_reader.h>

#include "backtest/report.h"
#include "backtest/simulation.h"
#include "backtest/strategy.h"
#include "backtest/walk_forward.h"
#include "support/program_run.h"
#include "support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <regex>
#include <string>
#include <vector>

namespace torchfeed::backtest {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pointwise;
using testing::ProgramRun;
using testing::TempDir;

const std::string kPrices = std::string(TORCHFEED_DATA_DIR) + "/sp500.csv";

// ---- Rules ----

TEST(Positions, OfACrossoverAreInWhileTheFastMeanIsAbove) {
  // Means of 2: -, 1.5, 2.5, 2.5, 1.5; of 3: -, -, 2, 2.33, 2.
  const std::vector<double> close{1, 2, 3, 2, 1};
  EXPECT_THAT(positions({Crossover{2, 3}, false}, close), ElementsAre(0, 0, 1, 1, 0));
  EXPECT_THAT(positions({Crossover{2, 3}, true}, close), ElementsAre(0, 0, 1, 1, -1));
}

TEST(Positions, OfMomentumAreInAboveTheThreshold) {
  const std::vector<double> close{100, 100, 111, 105, 99, 90};
  EXPECT_THAT(positions({Momentum{2, 0.1}, false}, close), ElementsAre(0, 0, 1, 0, 0, 0));
  EXPECT_THAT(positions({Momentum{2, 0.1}, true}, close), ElementsAre(0, 0, 1, 0, -1, -1));
  EXPECT_THAT(positions({Momentum{9, 0.1}, true}, close), ::testing::Each(0)) << "no history";
}

TEST(Positions, OfReversionAreHeldUntilTheIndexHasComeBack) {
  // Index over 1 bar: 0 after a fall, 100 after a rise, 50 where nothing moved.
  const std::vector<double> close{10, 9, 9, 10, 10, 9};
  EXPECT_THAT(positions({Reversion{1, 20, 60}, false}, close), ElementsAre(0, 1, 1, 0, 0, 1));
  EXPECT_THAT(positions({Reversion{1, 20, 60}, true}, close), ElementsAre(0, 1, 1, -1, -1, 1));
}

TEST(Positions, OfTheGridAreNamedApart) {
  std::vector<std::string> names;
  for (const auto& strategy : make_grid()) names.push_back(strategy.name());
  EXPECT_GT(names.size(), 1000U);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

// ---- Figures ----

TEST(Simulation, EarnsFromCloseToCloseAndPaysForEachChange) {
  const std::vector<double> close{100, 110, 99, 99};
  const Track track = simulate(close, std::vector<double>{1, -1, 0, 1}, 0.01);
  // The short position has fallen to 0.9 of an equity that has grown to 1.1 when it is bought back.
  EXPECT_THAT(track.net, Pointwise(DoubleNear(1e-12), {0.0, 0.1 - 0.01, 0.1 - 0.02, -0.01 * 0.9 / 1.1}));
  EXPECT_THAT(track.traded, Pointwise(DoubleNear(1e-12), {0.0, 1.0, 2.0, 0.9 / 1.1}));
}

TEST(Simulation, PaysForKeepingAShortPositionButNotForALongOne) {
  const std::vector<double> close{100, 110, 99, 99, 198, 198};
  EXPECT_THAT(simulate(close, std::vector<double>(6, 1), 0.01).traded, ElementsAre(0, 1, 0, 0, 0, 0));
  // -1.1 of an equity of 0.9, then -0.9 of 1.1, are brought back to -1 of it; at 0 there is nothing left to trade.
  EXPECT_THAT(simulate(close, std::vector<double>(6, -1), 0.01).traded,
              Pointwise(DoubleNear(1e-12), {0.0, 1.0, 1.1 / 0.9 - 1, 1 - 0.9 / 1.1, 0.0, 0.0}));
}

TEST(Report, MedianIsBetweenTheMiddleTwoOfAnEvenNumber) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
  EXPECT_EQ(median({5}), 5);
}

TEST(Simulation, MeasuresByHand) {
  const Track track{{0.5, 0.1, -0.2, 0.1, 0.5}, {9, 1, 0, 2, 9}};
  const Metrics metrics = measure(track, 1, 4);
  // Equity 1.1, 0.88, 0.968; mean 0; deviation sqrt(0.06 / 2).
  EXPECT_THAT(metrics.annual_return, DoubleNear(std::pow(0.968, 84) - 1, 1e-12));
  EXPECT_THAT(metrics.volatility, DoubleNear(std::sqrt(0.03 * 252), 1e-12));
  EXPECT_THAT(metrics.sharpe, DoubleNear(0, 1e-12));
  EXPECT_THAT(metrics.max_drawdown, DoubleNear(0.2, 1e-12));
  EXPECT_THAT(metrics.turnover, DoubleNear(252, 1e-12));
  EXPECT_THAT(measure(track, 3, 5).sharpe, DoubleNear(0.3 / std::sqrt(0.08) * std::sqrt(252), 1e-12));
}

TEST(Simulation, MeasuresWhatHasNoFigure) {
  EXPECT_EQ(measure({{0, 0.1}, {0, 0}}, 1, 1), Metrics{});
  EXPECT_EQ(measure({{0, 0, 0}, {0, 0, 0}}, 1, 3), Metrics{}) << "never traded";
  EXPECT_THAT(measure({{0, -0.5, 0.5}, {0, 0, 0}}, 1, 3).max_drawdown, DoubleEq(0.5)) << "from the first bar on";
  EXPECT_THAT(measure({{0, -1.5, 0.5}, {0, 0, 0}}, 1, 3).max_drawdown, DoubleEq(1)) << "all is lost, and no more";
}

// ---- Folds ----

TEST(Folds, EndWithTheDataAndFollowOnEachOther) {
  const auto folds = make_folds(21, 10, 3, 0);
  ASSERT_EQ(folds.size(), 3U);
  for (std::size_t i = 0; i < folds.size(); ++i) {
    EXPECT_EQ(folds[i].test_begin - folds[i].train_begin, 10U);
    EXPECT_EQ(folds[i].test_end - folds[i].test_begin, 3U);
    EXPECT_EQ(folds[i].test_end, 15 + 3 * i);
  }
  EXPECT_EQ(make_folds(21, 10, 3, 2).front().test_begin, 15U);
  EXPECT_EQ(make_folds(14, 10, 3, 0).front().train_begin, 1U) << "the first bar has no return";
}

TEST(Folds, TellHowManyBarsTheyNeed) {
  for (const std::size_t count : {0, 1}) {
    try {
      make_folds(13, 10, 3, count);
      FAIL() << "nothing thrown";
    } catch (const std::exception& error) {
      EXPECT_STREQ(error.what(),
                   "walk-forward folds: expected at least 14 bars for 1 of 10 to train and 3 to test, got 13");
    }
  }
}

TEST(WalkForwardRun, TradesTheBestOfTrainingAndPaysForTheChange) {
  const std::vector<double> close{100, 101, 103, 102, 104, 103, 105, 107, 106, 108, 110};
  const std::vector<Strategy> grid{{Momentum{1, -1}, false}, {Momentum{1, 10}, false}, {Momentum{1, -1}, false}};
  const auto folds = make_folds(close.size(), 4, 3, 0);
  ASSERT_EQ(folds.size(), 2U);
  std::vector<GridRow> rows(3);
  rows[0].train_sharpe = {2, 0};
  rows[1].train_sharpe = {1, 1};
  rows[2].train_sharpe = {2, 0.5};
  const auto result = walk_forward(grid, rows, close, folds, 0.01);
  EXPECT_EQ(result.choices[0].strategy, 0U) << "of equals the first";
  EXPECT_EQ(result.choices[1].strategy, 1U);
  // Bought at close 4, sold at close 7: one trade is paid in each fold.
  EXPECT_THAT(result.choices[0].test.turnover, DoubleNear(84, 1e-9));
  EXPECT_THAT(result.choices[1].test.turnover, DoubleNear(84, 1e-9));
  const double equity = (103.0 / 104 - 0.01) * (105.0 / 103) * (107.0 / 105) * 0.99;
  EXPECT_THAT(result.traded.annual_return, DoubleNear(std::pow(equity, 252.0 / 6) - 1, 1e-9));
  const double bought = (103.0 / 104 - 0.01) * 110 / 103;
  EXPECT_THAT(result.buy_and_hold.annual_return, DoubleNear(std::pow(bought, 252.0 / 6) - 1, 1e-9));
}

// ---- The future ----

/// Closes that from `from` on are others.
std::vector<double> with_another_future(std::vector<double> close, std::size_t from) {
  for (std::size_t t = from; t < close.size(); ++t) close[t] *= t % 3 == 0 ? 0.5 : 1.7;
  return close;
}

TEST(NoLookAhead, PositionsDoNotDependOnLaterCloses) {
  const auto close = datasets::read_prices(kPrices).close;
  const auto grid = make_grid();
  for (const std::size_t from : {300, 2000, 4000}) {
    const auto other = with_another_future(close, from);
    const auto known = static_cast<std::ptrdiff_t>(from);
    std::size_t changed = 0;
    for (std::size_t i = 0; i < grid.size(); i += 23) {
      const auto before = positions(grid[i], close);
      const auto after = positions(grid[i], other);
      ASSERT_TRUE(std::equal(before.begin(), before.begin() + known, after.begin())) << grid[i].name();
      changed += std::equal(before.begin() + known, before.end(), after.begin() + known) ? 0 : 1;
    }
    EXPECT_GT(changed, grid.size() / 23 / 2) << "the closes do matter";
  }
}

TEST(NoLookAhead, ChoicesAndPastFiguresDoNotDependOnLaterCloses) {
  const auto close = datasets::read_prices(kPrices).close;
  std::vector<Strategy> grid;
  const auto all = make_grid();
  for (std::size_t i = 0; i < all.size(); i += 41) grid.push_back(all[i]);
  const auto folds = make_folds(close.size(), 1000, 250, 10);
  const auto run = [&](const std::vector<double>& closes) {
    std::vector<GridRow> rows;
    for (const auto& strategy : grid) rows.push_back(evaluate(strategy, closes, folds, 1e-4));
    return walk_forward(grid, rows, closes, folds, 1e-4);
  };
  const auto expected = run(close);
  // All that is known when fold 6 begins to trade: its choice stands, its figures do not.
  const auto result = run(with_another_future(close, folds[6].test_begin));
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(result.choices[i].test == expected.choices[i].test, i < 6) << i;
    if (i <= 6) {
      EXPECT_EQ(result.choices[i].strategy, expected.choices[i].strategy);
      EXPECT_EQ(result.choices[i].train_sharpe, expected.choices[i].train_sharpe);
    }
  }
}

TEST(NoLookAhead, APositionThatKnewTheNextCloseWouldBeSeen) {
  // What the tests above compare would differ: the same rule, one bar too early.
  const auto close = datasets::read_prices(kPrices).close;
  const auto cheat = [](const std::vector<double>& closes) {
    auto position = positions({Momentum{1, 0}, false}, closes);
    std::rotate(position.begin(), position.begin() + 1, position.end());
    return position;
  };
  const auto before = cheat(close);
  const auto after = cheat(with_another_future(close, 2000));
  EXPECT_FALSE(std::equal(before.begin(), before.begin() + 2000, after.begin()));
  EXPECT_GT(measure(simulate(close, before, 0), 1, close.size() - 1).sharpe, 5);
}

// ---- The program ----

struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

Ended backtest(const TempDir& dir, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::string(TORCHFEED_PROGRAM_DIR) + "/backtest");
  ProgramRun run(arguments, dir.file("run"));
  const int code = run.wait();
  return {code, run.out(), run.err()};
}

/// The file's first 600 bars, so that a run takes an instant.
std::string few_prices(const TempDir& dir) {
  const std::string all = testing::read_text(kPrices);
  std::size_t end = 0;
  for (int line = 0; line < 601; ++line) end = all.find('\n', end) + 1;
  return dir.write("prices.csv", all.substr(0, end));
}

TEST(BacktestProgram, GivesTheSameForEveryNumberAndKindOfWorkers) {
  const TempDir dir;
  const std::string data = few_prices(dir);
  std::string expected;
  std::string expected_csv;
  for (const auto& [mode, workers] : std::vector<std::pair<std::string, std::string>>{
           {"threads", "1"}, {"threads", "3"}, {"processes", "2"}, {"processes", "3"}, {"both", "-1"}}) {
    const auto ended = backtest(dir, {"--data", data, "--train-bars", "200", "--test-bars", "50", "--mode", mode,
                                      "--workers", workers, "--repeats", "0", "--csv", dir.file("grid.csv")});
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_THAT(ended.err, HasSubstr(std::to_string(make_grid().size()) + " items in "));
    const std::string csv = testing::read_text(dir.file("grid.csv"));
    if (expected.empty()) {
      expected = ended.out;
      expected_csv = csv;
    }
    EXPECT_EQ(ended.out, expected) << mode << workers;
    EXPECT_EQ(csv, expected_csv) << mode << workers;
  }
  EXPECT_THAT(expected, HasSubstr("600 bars"));
  EXPECT_THAT(expected, HasSubstr("7 folds, 200 bars to choose by the Sharpe ratio, the next 50 to trade"));
  EXPECT_THAT(expected, HasSubstr("\n  walk-forward "));
  EXPECT_THAT(expected, HasSubstr("\n  buy and hold "));
  EXPECT_EQ(static_cast<std::size_t>(std::count(expected_csv.begin(), expected_csv.end(), '\n')),
            make_grid().size() + 1);
  EXPECT_THAT(expected_csv, HasSubstr("\ncrossover 2/20,"));
}

TEST(BacktestProgram, MeasuresTheSpeedUpOfBothModes) {
  const TempDir dir;
  const auto ended = backtest(dir, {"--data", few_prices(dir), "--train-bars", "200", "--test-bars", "50", "--folds",
                                    "2", "--workers", "2", "--repeats", "1", "--top", "3", "--quiet"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  EXPECT_THAT(ended.out, HasSubstr("the best 3 in sample"));
  EXPECT_THAT(ended.out, HasSubstr("\n2 folds"));
  EXPECT_THAT(ended.out,
              ::testing::ContainsRegex("\n  threads      2 workers +[0-9.]+ ms  against +[0-9.]+ ms +[0-9.]+x\n"));
  EXPECT_THAT(ended.out,
              ::testing::ContainsRegex("\n  processes    2 workers +[0-9.]+ ms  against +[0-9.]+ ms +[0-9.]+x\n"));
}

TEST(BacktestProgram, TellsWhatIsWrongWithItsInput) {
  const TempDir dir;
  const std::string data = few_prices(dir);
  const auto fails = [&](std::vector<std::string> arguments, const std::string& message) {
    const auto ended = backtest(dir, std::move(arguments));
    EXPECT_EQ(ended.code, 2);
    EXPECT_THAT(ended.err, ::testing::StartsWith("backtest: "));
    EXPECT_THAT(ended.err, HasSubstr(message));
    EXPECT_EQ(ended.out, "");
  };
  fails({"--data", dir.file("none.csv")}, "none.csv");
  fails({"--data", dir.write("bad.csv", "date,open\n")}, "bad.csv");
  fails({"--data", data}, "expected at least 1513 bars for 1 of 1260 to train and 252 to test, got 600");
  fails({"--data", data, "--train-bars", "100", "--test-bars", "50", "--folds", "10"}, "for 10 of 100 to train");
  fails({"--data", data, "--mode", "fibres"}, "--mode");
  fails({"--data", data, "--workers", "-2"}, "--workers");
  fails({"--data", data, "--costs-bps", "nan"}, "--costs-bps: expected a number from 0 to 10000, got nan");
  fails({"--data", data, "--train-bars", "100", "--quiet", "--csv", dir.path()}, dir.path());
  const auto help = backtest(dir, {"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.out, HasSubstr("--costs-bps"));
  // CLI11 breaks its lines, where it is a newer one.
  EXPECT_THAT(std::regex_replace(help.out, std::regex("\\s+"), " "), HasSubstr("taken at that same close"));
}

TEST(BacktestProgram, ReadsTheFileThatComesWithTorchfeedUnlessToldAnother) {
  const TempDir dir;
  const auto ended = backtest(dir, {"--mode", "threads", "--repeats", "0", "--quiet", "--top", "1"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, ::testing::StartsWith(kPrices + ": "));
  EXPECT_THAT(ended.out, HasSubstr("taken at that same close"));
}

TEST(BacktestProgram, FailsWhereItsOutputCannotBeWritten) {
  const TempDir dir;
  const std::string command = std::string(TORCHFEED_PROGRAM_DIR) +
                              "/backtest --quiet --train-bars 200 --test-bars 50 "
                              "--mode threads --workers 1 --repeats 0 --data " +
                              few_prices(dir) + " > /dev/full";
  ProgramRun run({"/bin/sh", "-c", command}, dir.file("run"));
  EXPECT_EQ(run.wait(), 2);
  EXPECT_THAT(run.err(), ::testing::StartsWith("backtest: standard output could not be written"));
}

}  // namespace
}  // namespace torchfeed::backtest
