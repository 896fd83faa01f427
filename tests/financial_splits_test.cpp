// Targets over a horizon, parts with purge and embargo, walk-forward folds, many instruments, ways to scale.

#include "support/market_files.h"
#include "support/temp_dir.h"

#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial_data_loader.h>
#include <torchfeed/datasets/financial_dataset.h>

#include <torch/torch.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed::datasets {
namespace {

using ::testing::HasSubstr;
using testing::kDay;
using testing::kFirstDay;
using testing::random_rows;
using testing::RowTable;
using testing::TempDir;
using testing::write_converted;

const std::vector<std::string> kColumns = {"close", "log_return", "log_range", "feature"};

/// Options for tables of `kColumns`.
FinancialOptions with(const FinancialOptions& changed) {
  FinancialOptions options = changed;
  if (options.features.empty()) options.features = {"log_return", "feature"};
  return options;
}

std::vector<size_t> all_of(const FinancialDataset& dataset) {
  std::vector<size_t> indices(dataset.size().value());
  std::iota(indices.begin(), indices.end(), size_t{0});
  return indices;
}

/// Places of all targets: instrument and first row.
std::vector<std::pair<size_t, int64_t>> places(const FinancialDataset& dataset) {
  std::vector<std::pair<size_t, int64_t>> all;
  for (const size_t i : all_of(dataset)) all.emplace_back(dataset.target_instrument(i), dataset.target_row(i));
  return all;
}

std::vector<int64_t> rows_of(const FinancialDataset& dataset) {
  std::vector<int64_t> rows;
  for (const auto& [instrument, row] : places(dataset)) rows.push_back(row);
  return rows;
}

std::vector<int64_t> from_to(int64_t first, int64_t last, int64_t step = 1) {
  std::vector<int64_t> rows;
  for (int64_t row = first; row <= last; row += step) rows.push_back(row);
  return rows;
}

class FinancialSplitsTest : public ::testing::Test {
 protected:
  FinancialDataset open(const RowTable& table, const FinancialOptions& options = {}) const {
    return FinancialDataset::open(write_converted(dir_, "one", table), with(options));
  }

  template <typename Error>
  std::string fault(const RowTable& table, const FinancialOptions& options) const {
    try {
      open(table, options);
    } catch (const Error& error) {
      if constexpr (std::is_base_of_v<c10::Error, Error>) return error.what_without_backtrace();
      return error.what();
    }
    return "no error";
  }

  TempDir dir_;
};

TEST_F(FinancialSplitsTest, TargetsOverAHorizonAreMadeOfTheRowsAfterTheWindow) {
  const RowTable table = random_rows(60, kColumns);
  const auto value = [&](int64_t row, size_t column) {
    return double{table.values[static_cast<size_t>(row) * 4 + column]};
  };
  const auto expect = [&](Target target, const std::function<double(int64_t)>& expected) {
    FinancialOptions options{.sequence_length = 5, .horizon = 3, .target = target, .scale_target = false};
    if (target == Target::kColumn) options.target_column = "feature";
    const FinancialDataset dataset = open(table, options);
    ASSERT_EQ(rows_of(dataset), from_to(5, 57));
    for (size_t i = 0; i < dataset.size().value(); ++i) {
      EXPECT_NEAR(dataset.target(i), expected(dataset.target_row(i)), 1e-5) << static_cast<int>(target) << ' ' << i;
    }
  };
  const auto log_return = [&](int64_t row) { return value(row, 1) + value(row + 1, 1) + value(row + 2, 1); };
  expect(Target::kLogReturn, log_return);
  expect(Target::kDirection, [&](int64_t row) { return log_return(row) > 0 ? 1 : -1; });
  expect(Target::kVolatility, [&](int64_t row) { return (value(row, 2) + value(row + 1, 2) + value(row + 2, 2)) / 3; });
  expect(Target::kColumn, [&](int64_t row) { return value(row + 2, 3); });

  RowTable small = table;
  for (auto& number : small.values) number *= 0.01F;
  const FinancialDataset returns =
      open(small, {.sequence_length = 5, .horizon = 3, .target = Target::kReturn, .scale_target = false});
  for (size_t i = 0; i < returns.size().value(); ++i) {
    EXPECT_NEAR(returns.target(i), std::exp(0.01 * log_return(returns.target_row(i))) - 1, 1e-6);
  }
}

TEST_F(FinancialSplitsTest, AFunctionSeesTheWindowsLastRowAndTheHorizonAfterItUnscaled) {
  const RowTable table = random_rows(60, kColumns);
  FinancialOptions options{.sequence_length = 5, .horizon = 2, .target = Target::kFunction};
  options.target_function = [](const FutureRows& rows) {
    EXPECT_EQ(rows.horizon(), 2);
    EXPECT_EQ(rows.instrument(), "one");
    EXPECT_EQ(rows.time(2) - rows.time(0), 2 * kDay);
    EXPECT_THROW(rows.value(3, 0), c10::IndexError);
    EXPECT_THROW(rows.value(-1, 0), c10::IndexError);
    EXPECT_THROW(rows.value(0, 4), c10::IndexError);
    EXPECT_THROW(rows.column("peak"), DataError);
    const size_t close = rows.column("close");
    return rows.value(2, close) - rows.value(0, close);
  };
  for (const bool lazy : {false, true}) {
    options.lazy_loading = lazy;
    const FinancialDataset dataset = open(table, options);
    ASSERT_EQ(rows_of(dataset), from_to(5, 58));
    for (size_t i = 0; i < dataset.size().value(); ++i) {
      const auto row = static_cast<size_t>(dataset.target_row(i));
      EXPECT_FLOAT_EQ(dataset.target(i), table.values[(row + 1) * 4] - table.values[(row - 1) * 4]);
    }
    EXPECT_TRUE(std::isnan(dataset.target_series()[0]));  // it has no row before
    EXPECT_TRUE(std::isnan(dataset.target_series()[59]));
    EXPECT_FALSE(std::isnan(dataset.target_series()[1]));
  }
}

TEST_F(FinancialSplitsTest, ScalesTargetsByTheTrainingPartsOwn) {
  const RowTable table = random_rows(300, kColumns);
  for (const Target target : {Target::kLogReturn, Target::kVolatility, Target::kColumn}) {
    for (const int64_t horizon : {1, 4}) {
      FinancialOptions options{.sequence_length = 1, .horizon = horizon, .target = target};
      if (target == Target::kColumn) options.target_column = "feature";
      const FinancialDataset dataset = open(table, options);
      // By definition, from the series that is not scaled: targets that lie whole within rows [0, 210).
      options.scale_target = false;
      const auto raw = open(table, options).target_series();
      const bool whole_column = target == Target::kColumn;  // whose scale is that of all its training rows
      double mean = 0;
      double squares = 0;
      std::vector<double> values;
      for (int64_t row = 0; row + (whole_column ? 1 : horizon) <= 210; ++row) {
        values.push_back(whole_column ? table.values[static_cast<size_t>(row) * 4 + 3] : raw[static_cast<size_t>(row)]);
      }
      for (const double value : values) mean += value / static_cast<double>(values.size());
      for (const double value : values) squares += (value - mean) * (value - mean) / static_cast<double>(values.size());
      EXPECT_NEAR(dataset.target_mean(), mean, 1e-5);
      EXPECT_NEAR(dataset.target_stddev(), std::sqrt(squares), 1e-5);
      EXPECT_NEAR(dataset.target(7), (raw[8] - mean) / std::sqrt(squares), 1e-5);
    }
  }
}

// 100 rows: training [0, 70), validation [70, 85), test [85, 100).
TEST_F(FinancialSplitsTest, PurgesTargetsThatReachIntoTheNextPart) {
  const FinancialDataset dataset = open(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 5});
  EXPECT_EQ(rows_of(dataset.split(Split::kTrain)), from_to(7, 65));
  EXPECT_EQ(rows_of(dataset.split(Split::kValidation)), from_to(70, 80));
  EXPECT_EQ(rows_of(dataset.split(Split::kTest)), from_to(85, 95));
  EXPECT_EQ(rows_of(dataset), from_to(7, 95));
}

TEST_F(FinancialSplitsTest, KeepsPurgeBeforeAndEmbargoAfterEachCut) {
  const FinancialDataset dataset =
      open(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 2, .purge = 3, .embargo = 4});
  EXPECT_EQ(rows_of(dataset.split(Split::kTrain)), from_to(7, 66));
  EXPECT_EQ(rows_of(dataset.split(Split::kValidation)), from_to(74, 81));
  EXPECT_EQ(rows_of(dataset.split(Split::kTest)), from_to(89, 98));
  // What is less than the horizon asks for changes nothing.
  const FinancialDataset least = open(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 5, .purge = 2});
  EXPECT_EQ(rows_of(least.split(Split::kTrain)), from_to(7, 65));
}

TEST_F(FinancialSplitsTest, StrideLeavesOutWindowsAlikeInAllParts) {
  const FinancialDataset dataset = open(random_rows(100, kColumns), {.sequence_length = 7, .stride = 4});
  EXPECT_EQ(rows_of(dataset), from_to(7, 99, 4));
  std::vector<int64_t> rows;
  for (const Split part : {Split::kTrain, Split::kValidation, Split::kTest}) {
    for (const int64_t row : rows_of(dataset.split(part))) rows.push_back(row);
  }
  EXPECT_EQ(rows, from_to(7, 99, 4));
  EXPECT_EQ(dataset.split(Split::kValidation).target_row(0), 71);
}

/// The same days' rows but for a later begin and an earlier end.
RowTable part_of(const RowTable& table, size_t begin, size_t end) {
  RowTable part{table.columns, {}, {}};
  part.times.assign(table.times.begin() + static_cast<int64_t>(begin), table.times.begin() + static_cast<int64_t>(end));
  part.values.assign(table.values.begin() + static_cast<int64_t>(begin * 4),
                     table.values.begin() + static_cast<int64_t>(end * 4));
  return part;
}

TEST_F(FinancialSplitsTest, CutsAllInstrumentsAtTheSameTimeAndNoWindowCrossesThem) {
  const RowTable first = random_rows(100, kColumns, 1);
  const RowTable second = part_of(random_rows(100, kColumns, 2), 40, 90);
  write_converted(dir_, "all/b", second);
  write_converted(dir_, "all/a", first);
  FinancialOptions options{.sequence_length = 7, .horizon = 2};
  options.features = kColumns;
  options.scaling = Scaling::kNone;
  for (const bool lazy : {false, true}) {
    options.lazy_loading = lazy;
    FinancialDataset dataset = FinancialDataset::open(dir_.file("all"), options);
    ASSERT_EQ(dataset.instruments(), 2U);
    EXPECT_EQ(dataset.instrument_name(0), "a");
    EXPECT_EQ(dataset.instrument_name(1), "b");
    EXPECT_EQ(dataset.instrument_source(1), dir_.file("all/b"));
    EXPECT_EQ(dataset.rows(0), 100);
    EXPECT_EQ(dataset.rows(1), 50);

    // Rows of both in the order of time: 40 of a alone, 50 days of both, 10 of a. Row 105 is of day 40 + 65 / 2 = 72,
    // row 127 of day 83; those before are training and validation.
    int64_t day_of_last_target[2] = {0, 0};
    for (const auto& [part, from, to] :
         {std::tuple{Split::kTrain, int64_t{0}, int64_t{72}}, std::tuple{Split::kValidation, int64_t{72}, int64_t{83}},
          std::tuple{Split::kTest, int64_t{83}, int64_t{100}}}) {
      const FinancialDataset view = dataset.split(part);
      std::map<size_t, int64_t> counts;
      for (size_t i = 0; i < view.size().value(); ++i) {
        const size_t instrument = view.target_instrument(i);
        const int64_t day = view.time(view.target_row(i), instrument) / kDay - kFirstDay;
        EXPECT_GE(day, from);
        EXPECT_LE(day + 1, to - 1);
        EXPECT_GT(day, day_of_last_target[instrument]);
        day_of_last_target[instrument] = day;
        ++counts[instrument];
      }
      EXPECT_EQ(counts.size(), 2U);
      EXPECT_EQ(view.first_target_date(),
                format_iso_date(static_cast<int32_t>(kFirstDay + std::max<int64_t>(from, 7))));
    }

    const auto batch = dataset.get_batch(all_of(dataset));
    for (size_t i = 0; i < dataset.size().value(); ++i) {
      const RowTable& table = dataset.target_instrument(i) == 0 ? first : second;
      const auto row = static_cast<size_t>(dataset.target_row(i));
      ASSERT_LE(row + 2, table.times.size());
      ASSERT_GE(row, 7U);
      const std::vector<float> window(table.values.begin() + static_cast<int64_t>((row - 7) * 4),
                                      table.values.begin() + static_cast<int64_t>(row * 4));
      EXPECT_TRUE(torch::equal(batch.data[static_cast<int64_t>(i)].flatten(), torch::tensor(window))) << i;
    }
  }
}

TEST_F(FinancialSplitsTest, OpensPathsInTheirOrderWithRowsThatHaveColumnsInAnotherOrder) {
  const RowTable first = random_rows(80, kColumns, 1);
  RowTable second = random_rows(80, {"feature", "log_range", "more", "log_return"}, 2);
  const std::vector<std::string> paths = {write_converted(dir_, "z", second), write_converted(dir_, "a", first)};
  FinancialOptions options{.sequence_length = 3, .target = Target::kColumn};
  options.target_column = "log_range";
  options.features = {"feature", "log_return"};
  options.scaling = Scaling::kNone;
  options.scale_target = false;
  FinancialDataset dataset = FinancialDataset::open(paths, options);
  EXPECT_EQ(dataset.instrument_name(0), "z");
  EXPECT_EQ(dataset.size().value(), 154U);
  const auto batch = dataset.get_batch(std::vector<size_t>{0, 77});
  EXPECT_EQ(batch.data[0][0][0].item<float>(), second.values[0]);
  EXPECT_EQ(batch.data[0][1][1].item<float>(), second.values[4 + 3]);
  EXPECT_EQ(batch.target[0].item<float>(), second.values[3 * 4 + 1]);
  EXPECT_EQ(batch.data[1][0][0].item<float>(), first.values[3]);
  EXPECT_EQ(batch.data[1][1][1].item<float>(), first.values[4 + 1]);
  EXPECT_EQ(batch.target[1].item<float>(), first.values[3 * 4 + 2]);
}

TEST_F(FinancialSplitsTest, ManyInstrumentsShareOneScale) {
  const RowTable first = random_rows(100, kColumns, 1);
  RowTable second = random_rows(100, kColumns, 2);
  for (auto& value : second.values) value += 10;
  write_converted(dir_, "all/a", first);
  write_converted(dir_, "all/b", second);
  const FinancialDataset dataset = FinancialDataset::open(dir_.file("all"), with({.sequence_length = 7}));
  double mean = 0;
  for (size_t row = 0; row < 70; ++row) mean += (first.values[row * 4 + 3] + second.values[row * 4 + 3]) / 140;
  EXPECT_NEAR(dataset.feature_mean()[1], mean, 1e-5);
}

/// Mean, deviation, median and scaled interquartile range by their definitions, over rows [0, 70).
TEST_F(FinancialSplitsTest, ScalesByMeanAndDeviationOrMedianAndQuartilesOfTheTrainingPart) {
  RowTable table = random_rows(100, kColumns);
  table.values[10 * 4 + 3] = 1e6F;  // wild, in the training part
  const auto raw = torch::from_blob(table.values.data(), {100, 4}, torch::kFloat32).select(1, 3).to(torch::kFloat64);
  const auto training = raw.slice(0, 0, 70);

  const FinancialDataset standard = open(table, {.sequence_length = 7});
  EXPECT_NEAR(standard.feature_mean()[1], training.mean().item<double>(), 1e-6);
  EXPECT_NEAR(standard.feature_stddev()[1], training.std(/*unbiased=*/false).item<double>(), 1e-3);

  FinancialDataset robust = open(table, {.sequence_length = 7, .scaling = Scaling::kRobust});
  const double range = (training.quantile(0.75) - training.quantile(0.25)).item<double>() / 1.3489795;
  EXPECT_NEAR(robust.feature_mean()[1], training.quantile(0.5).item<double>(), 1e-6);
  EXPECT_NEAR(robust.feature_stddev()[1], range, 1e-6);
  const auto batch = robust.get_batch(all_of(robust));
  EXPECT_NEAR(batch.data[80][3][1].item<double>(), (raw[83].item<double>() - robust.feature_mean()[1]) / range, 1e-4);
}

TEST_F(FinancialSplitsTest, ScalesEachWindowByItself) {
  RowTable table = random_rows(100, kColumns);
  for (size_t row = 0; row < 20; ++row) table.values[row * 4 + 3] = 5;  // does not vary
  for (const bool lazy : {false, true}) {
    FinancialDataset dataset = open(table, {.sequence_length = 7, .scaling = Scaling::kWindow, .lazy_loading = lazy});
    const auto data = dataset.get_batch(all_of(dataset)).data;
    EXPECT_TRUE(torch::allclose(data.mean(1), torch::zeros({93, 2}), 0, 1e-5));
    EXPECT_TRUE(torch::allclose(data.select(2, 0).std(1, /*unbiased=*/false), torch::ones({93}), 0, 1e-4));
    EXPECT_TRUE(torch::equal(data[5].select(1, 1), torch::zeros({7})));
    const auto raw = torch::from_blob(table.values.data(), {100, 4}, torch::kFloat32).select(1, 3);
    const auto window = raw.slice(0, 50, 57);
    const auto expected = (window - window.mean()) / window.std(/*unbiased=*/false);
    EXPECT_TRUE(torch::allclose(data[50].select(1, 1), expected, 1e-4, 1e-5));
  }
}

TEST_F(FinancialSplitsTest, GivesTheValuesAsTheyAreWithoutScaling) {
  const RowTable table = random_rows(100, kColumns);
  FinancialDataset dataset = open(table, {.sequence_length = 7, .scaling = Scaling::kNone});
  const auto batch = dataset.get_batch(std::vector<size_t>{20});
  for (int64_t t = 0; t < 7; ++t) {
    const auto row = static_cast<size_t>(20 + t) * 4;
    EXPECT_EQ(batch.data[0][t][0].item<float>(), table.values[row + 1]);
    EXPECT_EQ(batch.data[0][t][1].item<float>(), table.values[row + 3]);
  }
}

TEST_F(FinancialSplitsTest, NothingAfterTheTrainingPartChangesAnyScale) {
  const RowTable table = random_rows(100, kColumns);
  RowTable changed = table;
  for (size_t i = 70 * 4; i < changed.values.size(); ++i) changed.values[i] = 1000;
  for (const Scaling scaling : {Scaling::kStandard, Scaling::kRobust}) {
    for (const Target target : {Target::kVolatility, Target::kReturn}) {
      const FinancialOptions options{.sequence_length = 7, .horizon = 3, .target = target, .scaling = scaling};
      const FinancialDataset before = open(table, options);
      const FinancialDataset after = open(changed, options);
      EXPECT_EQ(before.feature_mean(), after.feature_mean());
      EXPECT_EQ(before.feature_stddev(), after.feature_stddev());
      EXPECT_EQ(before.target_mean(), after.target_mean());
      EXPECT_EQ(before.target_stddev(), after.target_stddev());
      EXPECT_EQ(before.split(Split::kTrain).targets(), after.split(Split::kTrain).targets());
      auto train_before = before.split(Split::kTrain);
      auto train_after = after.split(Split::kTrain);
      EXPECT_TRUE(torch::equal(train_before.get_batch(all_of(train_before)).data,
                               train_after.get_batch(all_of(train_after)).data));
    }
  }
}

TEST_F(FinancialSplitsTest, WalksForwardFoldByFold) {
  const FinancialDataset dataset = open(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 2, .embargo = 1});
  const auto folds = dataset.walk_forward({.folds = 3, .train_fraction = 0.4, .validation_fraction = 0.1});
  ASSERT_EQ(folds.size(), 3U);
  // Test parts of 20 rows from row 40 on; a tenth of what is before is for validation.
  EXPECT_EQ(rows_of(folds[0].split(Split::kTrain)), from_to(7, 34));
  EXPECT_EQ(rows_of(folds[0].split(Split::kValidation)), from_to(37, 38));
  EXPECT_EQ(rows_of(folds[0].split(Split::kTest)), from_to(41, 58));
  EXPECT_EQ(rows_of(folds[1].split(Split::kTrain)), from_to(7, 52));
  EXPECT_EQ(rows_of(folds[1].split(Split::kTest)), from_to(61, 78));
  EXPECT_EQ(rows_of(folds[2].split(Split::kTest)), from_to(81, 98));
  EXPECT_EQ(rows_of(folds[0]), from_to(7, 58));
  EXPECT_NE(folds[0].feature_mean(), folds[1].feature_mean());
}

TEST_F(FinancialSplitsTest, FoldsKeepThePurgeBeforeTheirParts) {
  const FinancialDataset dataset =
      open(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 2, .purge = 3, .embargo = 1});
  const auto folds = dataset.walk_forward({.folds = 3, .train_fraction = 0.4, .validation_fraction = 0.2});
  // Before the test parts [40, 60) and [80, 100) are the validation parts [32, 40) and [64, 80).
  EXPECT_EQ(rows_of(folds[0].split(Split::kTrain)), from_to(7, 28));
  EXPECT_EQ(rows_of(folds[0].split(Split::kValidation)), from_to(33, 36));
  EXPECT_EQ(rows_of(folds[0].split(Split::kTest)), from_to(41, 58));
  EXPECT_EQ(rows_of(folds[2].split(Split::kTrain)), from_to(7, 60));
  EXPECT_EQ(rows_of(folds[2].split(Split::kValidation)), from_to(65, 76));
  EXPECT_EQ(rows_of(folds[2].split(Split::kTest)), from_to(81, 98));
}

TEST_F(FinancialSplitsTest, FoldsCutAllInstrumentsAtTheSameTime) {
  const RowTable first = random_rows(100, kColumns, 1);
  const RowTable second = part_of(random_rows(100, kColumns, 2), 40, 90);
  write_converted(dir_, "all/a", first);
  write_converted(dir_, "all/b", second);
  const auto folds = FinancialDataset::open(dir_.file("all"), with({.sequence_length = 7, .horizon = 2}))
                         .walk_forward({.folds = 2, .train_fraction = 0.4});
  // 150 rows; row 60 is of day 40 + 20 / 2 = 50, row 105 of day 40 + 65 / 2 = 72.
  const std::vector<int64_t> cuts = {50, 72, 100};
  for (size_t fold = 0; fold < 2; ++fold) {
    for (const auto& [part, from, to] :
         {std::tuple{Split::kTrain, int64_t{0}, cuts[fold]}, std::tuple{Split::kTest, cuts[fold], cuts[fold + 1]}}) {
      const FinancialDataset view = folds[fold].split(part);
      std::vector<std::pair<size_t, int64_t>> expected;  // the targets' rows are all in the part
      for (int64_t day = std::max<int64_t>(from, 7); day + 1 < to; ++day) expected.emplace_back(0, day);
      for (int64_t day = std::max<int64_t>(from, 47); day + 1 < std::min<int64_t>(to, 90); ++day) {
        expected.emplace_back(1, day - 40);
      }
      EXPECT_EQ(places(view), expected) << fold;
    }
    double mean = 0;
    const auto days = static_cast<size_t>(cuts[fold]);
    const auto count = static_cast<double>(2 * days - 40);
    for (size_t day = 0; day < days; ++day) mean += first.values[day * 4 + 3] / count;
    for (size_t day = 40; day < days; ++day) mean += second.values[(day - 40) * 4 + 3] / count;
    EXPECT_NEAR(folds[fold].feature_mean()[1], mean, 1e-5);
  }
}

TEST_F(FinancialSplitsTest, FoldsMayTrainOnAsManyRowsAsTheFirst) {
  const RowTable table = random_rows(100, kColumns);
  const FinancialDataset dataset = open(table, {.sequence_length = 7});
  const auto folds = dataset.walk_forward({.folds = 3, .train_fraction = 0.4, .expanding = false});
  EXPECT_EQ(rows_of(folds[0].split(Split::kTrain)), from_to(7, 39));
  EXPECT_EQ(rows_of(folds[2].split(Split::kTrain)), from_to(40, 79));
  EXPECT_EQ(folds[2].split(Split::kValidation).size().value(), 0U);
  EXPECT_THROW(folds[2].split(Split::kValidation).first_target_date(), c10::IndexError);
  double mean = 0;
  for (size_t row = 40; row < 80; ++row) mean += table.values[row * 4 + 3] / 40;
  EXPECT_NEAR(folds[2].feature_mean()[1], mean, 1e-5);
}

TEST_F(FinancialSplitsTest, AFoldIsWhatADatasetWithThoseCutsIs) {
  const RowTable table = random_rows(100, kColumns);
  for (const bool lazy : {false, true}) {
    const FinancialDataset dataset = open(table, {.sequence_length = 7, .lazy_loading = lazy});
    FinancialDataset fold =
        dataset.walk_forward({.folds = 1, .train_fraction = 0.85, .validation_fraction = 15.0 / 85}).front();
    EXPECT_EQ(fold.feature_mean(), dataset.feature_mean());
    for (const Split part : {Split::kTrain, Split::kValidation, Split::kTest}) {
      auto expected = dataset.split(part);
      auto view = fold.split(part);
      const auto batch = view.get_batch(all_of(view));
      EXPECT_TRUE(torch::equal(batch.data, expected.get_batch(all_of(expected)).data));
      EXPECT_TRUE(torch::equal(batch.target, expected.get_batch(all_of(expected)).target));
    }
  }
}

TEST_F(FinancialSplitsTest, RefusesFoldsThatCannotBe) {
  const FinancialDataset dataset = open(random_rows(100, kColumns), {.sequence_length = 7});
  EXPECT_THROW(dataset.walk_forward({.folds = 0}), c10::ValueError);
  EXPECT_THROW(dataset.walk_forward({.train_fraction = 0}), c10::ValueError);
  EXPECT_THROW(dataset.walk_forward({.train_fraction = NAN}), c10::ValueError);
  EXPECT_THROW(dataset.walk_forward({.validation_fraction = 1}), c10::ValueError);
  EXPECT_THROW(dataset.walk_forward({.train_fraction = 0.05}), DataError);
}

TEST_F(FinancialSplitsTest, RefusesOptionsThatDoNotFitTogether) {
  const RowTable table = random_rows(100, kColumns);
  const auto message = [&](const FinancialOptions& options) { return fault<c10::ValueError>(table, options); };
  EXPECT_THAT(message({.stride = 0}), HasSubstr("stride: expected 1 to 281474976710656, got 0"));
  EXPECT_THAT(message({.horizon = 0}), HasSubstr("horizon"));
  EXPECT_THAT(message({.horizon = int64_t{1} << 62}), HasSubstr("horizon"));
  EXPECT_THAT(message({.purge = -1}), HasSubstr("purge"));
  EXPECT_THAT(message({.embargo = -1}), HasSubstr("embargo"));
  EXPECT_THAT(message({.target = Target::kColumn}), HasSubstr("target_column"));
  FinancialOptions options{};
  options.target_column = "close";
  EXPECT_THAT(message(options), HasSubstr("target_column"));
  EXPECT_THAT(message({.target = Target::kFunction}), HasSubstr("target_function"));
  options = {};
  options.target_function = [](const FutureRows&) { return 0.0; };
  EXPECT_THAT(message(options), HasSubstr("target_function"));
  options = {};
  options.features = {"feature", "close", "feature"};
  EXPECT_THAT(message(options), HasSubstr("expected each once, got 'feature' again"));
  EXPECT_THROW(FinancialDataset::open(std::vector<std::string>{}), c10::ValueError);
}

TEST_F(FinancialSplitsTest, NamesTheColumnsWhereOneIsMissing) {
  const RowTable table = random_rows(100, kColumns);
  FinancialOptions options{.sequence_length = 7};
  options.features = {"feature", "rsi_14"};
  const std::string there = ", got close, log_return, log_range, feature";
  EXPECT_EQ(fault<DataError>(table, options), dir_.file("one") + ": expected a column 'rsi_14'" + there);
  options = {.sequence_length = 7, .target = Target::kColumn};
  options.target_column = "volume";
  EXPECT_EQ(fault<DataError>(table, options), dir_.file("one") + ": expected a column 'volume'" + there);
}

TEST_F(FinancialSplitsTest, SaysThatThereAreFewerRowsThanAHorizon) {
  EXPECT_EQ(fault<DataError>(random_rows(100, kColumns), {.sequence_length = 7, .horizon = 16}),
            dir_.file("one") +
                ": expected more rows than one window of 7 in the training part and at least a horizon of 16 rows in "
                "each other, got 70 for training, 15 for validation, 15 for the test");
}

TEST_F(FinancialSplitsTest, TheLoaderShufflesEachEpochAndGivesTheSameBatchesForAnyWorkers) {
  const FinancialDataset train = open(random_rows(400, kColumns), {.sequence_length = 7}).split(Split::kTrain);
  const auto epoch_of = [](auto& loader) {
    std::vector<torch::Tensor> targets;
    for (auto& batch : *loader) targets.push_back(batch.target.clone());
    return torch::cat(targets);
  };
  const auto all = train.targets();
  const auto in_order = torch::tensor(all);
  auto inline_loader =
      make_financial_data_loader(train, {.batch_size = 16, .num_workers = 0, .auto_threading = false, .seed = 5});
  EXPECT_EQ(inline_loader->stats().workers, 0);
  const auto first = epoch_of(inline_loader);
  const auto second = epoch_of(inline_loader);
  EXPECT_FALSE(torch::equal(first, in_order));
  EXPECT_FALSE(torch::equal(first, second));
  EXPECT_TRUE(torch::equal(std::get<0>(first.sort()), std::get<0>(in_order.sort())));
  auto automatic = make_financial_data_loader(train, {.batch_size = 16, .seed = 5});
  EXPECT_TRUE(torch::equal(epoch_of(automatic), first));
  auto workers = make_financial_data_loader(train, {.batch_size = 16, .num_workers = 2, .seed = 5});
  EXPECT_TRUE(torch::equal(epoch_of(workers), first));
  auto ordered = make_financial_data_loader<torch::data::samplers::SequentialSampler>(train, {.batch_size = 16});
  EXPECT_TRUE(torch::equal(epoch_of(ordered), in_order));
  auto own = make_financial_data_loader(train, torch::data::samplers::SequentialSampler(32), {.drop_last = true});
  EXPECT_TRUE(torch::equal(epoch_of(own), in_order.slice(0, 0, 32)));
  // The seed reaches a sampler that takes it among its options.
  const auto in_blocks = [&] {
    auto loader = make_financial_data_loader<samplers::BlockShuffleSampler>(train, {.batch_size = 16, .seed = 5});
    return epoch_of(loader);
  };
  EXPECT_TRUE(torch::equal(in_blocks(), in_blocks()));
}

}  // namespace
}  // namespace torchfeed::datasets
