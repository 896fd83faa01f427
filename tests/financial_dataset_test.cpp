#include "support/market_files.h"
#include "support/temp_dir.h"

#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/iso_date.h>

#include <torch/torch.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace torchfeed::datasets {
namespace {

using testing::DayBar;
using testing::kFirstDay;
using testing::random_bars;
using testing::TempDir;
using testing::to_csv;

// 11 bars for 10 rows: 5 for training, 2 for validation, 3 for the test. In the training rows the returns are
// ln 2, -ln 2, ln 2, -ln 2, 0: mean 0, deviation ln 2 * sqrt(4 / 5).
std::vector<DayBar> worked_bars() {
  const std::vector<double> close = {100, 200, 100, 200, 100, 100, 200, 400, 200, 200, 800};
  const std::vector<double> range = {9, 0.1, 0.2, 0.1, 0.2, 0.1, 0.4, 0.1, 0, 0.2, 0.8};
  std::vector<DayBar> bars;
  for (size_t i = 0; i < close.size(); ++i) {
    bars.push_back({50, 100 * std::exp(range[i]), 100, close[i], i == 3 ? 0.0 : i % 2 == 0 ? 1000.0 : 4000.0});
  }
  return bars;
}

FinancialOptions worked_options(Target target) {
  return {.sequence_length = 2, .target = target, .train_fraction = 0.5, .validation_fraction = 0.2};
}

class FinancialDatasetTest : public ::testing::Test {
 protected:
  FinancialDataset open(const std::vector<DayBar>& bars, const FinancialOptions& options) const {
    return FinancialDataset::open(dir_.write("bars.csv", to_csv(bars)), options);
  }

  // The message without the trace that LibTorch adds, or "no error".
  template <typename Error>
  std::string fault(const std::vector<DayBar>& bars, const FinancialOptions& options) const {
    try {
      open(bars, options);
    } catch (const Error& error) {
      if constexpr (std::is_base_of_v<c10::Error, Error>) return error.what_without_backtrace();
      return error.what();
    }
    return "no error";
  }

  std::string path() const { return dir_.file("bars.csv"); }

  TempDir dir_;
};

std::vector<size_t> all_of(const FinancialDataset& dataset) {
  std::vector<size_t> indices(dataset.size().value());
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = i;
  return indices;
}

torch::Tensor tensor_of(std::vector<float> values) { return torch::tensor(values, torch::kFloat32); }

TEST_F(FinancialDatasetTest, GivesTheValuesWorkedByHand) {
  FinancialDataset dataset = open(worked_bars(), worked_options(Target::kLogReturn));
  EXPECT_EQ(dataset.rows(), 10);
  EXPECT_EQ(dataset.size().value(), 8u);
  EXPECT_EQ(dataset.features(), 4);
  EXPECT_EQ(dataset.feature_names(),
            (std::vector<std::string>{"log_return", "log_range", "log_volume_change", "log_close_open"}));

  const auto batch = dataset.get_batch(std::vector<size_t>{0});
  ASSERT_EQ(batch.data.sizes(), (std::vector<int64_t>{1, 2, 4}));
  ASSERT_EQ(batch.target.sizes(), (std::vector<int64_t>{1}));
  ASSERT_EQ(batch.data.scalar_type(), torch::kFloat32);
  ASSERT_EQ(batch.target.scalar_type(), torch::kFloat32);

  // Returns are +-ln 2 over ln 2 * sqrt(4 / 5). Log ranges of the training rows are a, b, a, b, a with a = ln 0.1 and
  // b = ln 0.2: mean a + 0.4 ln 2, deviation ln 2 * sqrt(0.24). Volume changes are ln 4, -ln 4, 0, 0, ln 4 (bar 3 has
  // no volume): mean 0.2 ln 4, deviation ln 4 * sqrt(0.56). Closes over opens are 4, 2, 4, 2, 2: ln 2 * (2, 1, 2, 1,
  // 1), mean 1.4 ln 2, deviation ln 2 * sqrt(0.24).
  const float one = 1.1180340F;
  const torch::Tensor expected = torch::tensor({one, -0.8164966F, 1.0690450F, 1.2247449F,     //
                                                -one, 1.2247449F, -1.6035675F, -0.8164966F})  //
                                     .reshape({1, 2, 4});
  EXPECT_TRUE(torch::allclose(batch.data, expected, 1e-5, 1e-6)) << batch.data;
  EXPECT_NEAR(batch.target.item<float>(), one, 1e-6);

  EXPECT_NEAR(dataset.target_mean(), 0, 1e-8);
  EXPECT_NEAR(dataset.target_stddev(), std::log(2.0) * std::sqrt(0.8), 1e-7);
  EXPECT_NEAR(dataset.feature_mean()[1], std::log(0.1) + 0.4 * std::log(2.0), 1e-6);
  EXPECT_NEAR(dataset.feature_stddev()[1], std::log(2.0) * std::sqrt(0.24), 1e-6);
}

TEST_F(FinancialDatasetTest, LogReturnTargetsAreTheReturnsOfTheBarsAfterTheWindows) {
  const FinancialDataset dataset = open(worked_bars(), worked_options(Target::kLogReturn));
  const float one = 1.1180340F;
  const auto expected = tensor_of({one, -one, 0, one, one, -one, 0, 2 * one});
  EXPECT_TRUE(torch::allclose(tensor_of(dataset.targets()), expected, 1e-5, 1e-6)) << tensor_of(dataset.targets());
}

TEST_F(FinancialDatasetTest, VolatilityTargetsAreTheLogRangesOfTheBarsAfterTheWindows) {
  const FinancialDataset dataset = open(worked_bars(), worked_options(Target::kVolatility));
  // (ln range - mean) / deviation, ranges 0.1, 0.2, 0.4 and 0.8 being 0, 1, 2, 3 times ln 2 above ln 0.1.
  const auto scaled = [](double doublings) { return static_cast<float>((doublings - 0.4) / std::sqrt(0.24)); };
  const double floor_doublings = std::log2(1e-4 / 0.1);  // the bar that did not move
  const auto expected =
      tensor_of({scaled(0), scaled(1), scaled(0), scaled(2), scaled(0), scaled(floor_doublings), scaled(1), scaled(3)});
  EXPECT_TRUE(torch::allclose(tensor_of(dataset.targets()), expected, 1e-5, 1e-5)) << tensor_of(dataset.targets());
}

TEST_F(FinancialDatasetTest, DirectionTargetsAreSignsAndNotScaled) {
  const FinancialDataset dataset = open(worked_bars(), worked_options(Target::kDirection));
  EXPECT_EQ(dataset.targets(), (std::vector<float>{1, -1, 0, 1, 1, -1, 0, 1}));
  EXPECT_EQ(dataset.target_mean(), 0);
  EXPECT_EQ(dataset.target_stddev(), 1);
}

/// Closes of whole cents, which come back to where they were every few bars.
std::vector<DayBar> bars_of_cents(size_t count) {
  std::mt19937_64 random(11);
  std::vector<DayBar> bars;
  int cents = 10'000;
  for (size_t i = 0; i < count; ++i) {
    cents += static_cast<int>(random() % 5) - 2;
    const double close = cents / 100.0;
    bars.push_back({close, close + 0.5, close - 0.5, close, 1000});
  }
  return bars;
}

TEST_F(FinancialDatasetTest, TargetsOverAHorizonAreThoseOfTheFilesOwnCloses) {
  const auto bars = bars_of_cents(400);
  for (const int64_t horizon : {2, 3, 7}) {
    FinancialOptions options{.sequence_length = 5, .horizon = horizon, .target = Target::kDirection};
    options.scale_target = false;
    const FinancialDataset directions = open(bars, options);
    options.target = Target::kReturn;
    const FinancialDataset returns = open(bars, options);
    ASSERT_EQ(directions.size().value(), 400U - 1 - 5 - static_cast<size_t>(horizon) + 1);
    int unmoved = 0;
    for (size_t i = 0; i < directions.size().value(); ++i) {
      // Row r is bar r + 1, and the window's last bar is the one before its target's first.
      const auto first = static_cast<size_t>(directions.target_row(i)) + 1;
      const double before = bars[first - 1].close;
      const double after = bars[first - 1 + static_cast<size_t>(horizon)].close;
      EXPECT_EQ(directions.target(i), (after > before) - (after < before)) << horizon << ' ' << i;
      EXPECT_NEAR(returns.target(i), after / before - 1, 1e-9) << horizon << ' ' << i;
      unmoved += after == before ? 1 : 0;
    }
    EXPECT_GT(unmoved, 20);
  }
}

TEST_F(FinancialDatasetTest, ADirectionWithoutClosesIsZeroWhereTheReturnsCancelOut) {
  const auto bars = bars_of_cents(400);
  testing::RowTable table{{"log_return"}, {}, {}};
  for (size_t i = 1; i < bars.size(); ++i) {
    table.times.push_back(static_cast<int64_t>(i) * testing::kDay);
    table.values.push_back(static_cast<float>(std::log(bars[i].close / bars[i - 1].close)));
  }
  const auto returns = tensor_of(table.values);
  for (const auto& [dtype, descr, rounded] :
       {std::tuple{"float32", "<f4", returns}, std::tuple{"float16", "<f2", returns.to(torch::kHalf)},
        std::tuple{"bfloat16", "<u2", returns.to(torch::kBFloat16)}}) {
    const std::string bytes(static_cast<const char*>(rounded.data_ptr()), rounded.nbytes());
    FinancialOptions options{.sequence_length = 5, .horizon = 3, .target = Target::kDirection};
    options.features = {"log_return"};
    const auto dataset = FinancialDataset::open(write_converted(dir_, dtype, table, dtype, descr, bytes), options);
    for (size_t i = 0; i < dataset.size().value(); ++i) {
      const auto first = static_cast<size_t>(dataset.target_row(i)) + 1;
      const double change = bars[first + 2].close - bars[first - 1].close;
      EXPECT_EQ(dataset.target(i), (change > 0) - (change < 0)) << dtype << ' ' << i;
    }
  }
}

TEST_F(FinancialDatasetTest, SplitsHoldAllSamplesInTheOrderOfTimeWithoutOverlap) {
  FinancialDataset whole = open(random_bars(101), {.sequence_length = 7});
  std::vector<int64_t> rows;
  std::vector<float> targets;
  std::vector<torch::Tensor> windows;
  for (const Split part : {Split::kTrain, Split::kValidation, Split::kTest}) {
    FinancialDataset view = whole.split(part);
    ASSERT_GT(view.size().value(), 0u);
    for (size_t i = 0; i < view.size().value(); ++i) {
      rows.push_back(view.target_row(i));
      targets.push_back(view.target(i));
    }
    windows.push_back(view.get_batch(all_of(view)).data);
    EXPECT_EQ(view.first_target_date(), whole.date(view.target_row(0)));
    EXPECT_EQ(view.last_target_date(), whole.date(view.target_row(view.size().value() - 1)));
  }
  ASSERT_EQ(rows.size(), whole.size().value());
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], static_cast<int64_t>(i) + 7);
  EXPECT_EQ(targets, whole.targets());
  EXPECT_TRUE(torch::equal(torch::cat(windows), whole.get_batch(all_of(whole)).data));
}

TEST_F(FinancialDatasetTest, CutsPartsAtTheGivenSharesOfTheRows) {
  const FinancialDataset whole = open(random_bars(101), {.sequence_length = 7});
  EXPECT_EQ(whole.split(Split::kTrain).size().value(), 63u);
  EXPECT_EQ(whole.split(Split::kValidation).target_row(0), 70);
  EXPECT_EQ(whole.split(Split::kTest).target_row(0), 85);
  EXPECT_EQ(whole.split(Split::kTest).size().value(), 15u);
  // 100 * 0.29 is below 29 in doubles.
  const FinancialDataset other = open(random_bars(101), {.sequence_length = 7, .train_fraction = 0.29});
  EXPECT_EQ(other.split(Split::kValidation).target_row(0), 29);
}

TEST_F(FinancialDatasetTest, SplitsOfSplitsAreOfTheWholeData) {
  const FinancialDataset whole = open(random_bars(101), {.sequence_length = 7});
  EXPECT_EQ(whole.split(Split::kTest).split(Split::kTrain).targets(), whole.split(Split::kTrain).targets());
}

TEST_F(FinancialDatasetTest, ALongerWindowLeavesScalesAndLaterPartsTargetsAsTheyAre) {
  const auto bars = random_bars(101);
  const FinancialDataset small = open(bars, {.sequence_length = 3});
  const FinancialDataset large = open(bars, {.sequence_length = 40});
  EXPECT_EQ(small.target_series(), large.target_series());
  EXPECT_EQ(small.split(Split::kValidation).targets(), large.split(Split::kValidation).targets());
  EXPECT_EQ(small.split(Split::kTest).targets(), large.split(Split::kTest).targets());
}

TEST_F(FinancialDatasetTest, WindowsEndOneRowBeforeTheirTargets) {
  FinancialDataset dataset = open(random_bars(101), {.sequence_length = 7}).split(Split::kTest);
  const auto batch = dataset.get_batch(all_of(dataset));
  const auto series = dataset.target_series();  // equals the feature log_range
  for (size_t i = 0; i < dataset.size().value(); ++i) {
    const int64_t row = dataset.target_row(i);
    for (int64_t t = 0; t < 7; ++t) {
      EXPECT_EQ(batch.data[static_cast<int64_t>(i)][t][1].item<float>(), series[static_cast<size_t>(row - 7 + t)]);
    }
    EXPECT_EQ(batch.target[static_cast<int64_t>(i)].item<float>(), series[static_cast<size_t>(row)]);
  }
}

TEST_F(FinancialDatasetTest, AChangeToTheFutureLeavesPastWindowsTargetsAndScalingUnchanged) {
  const auto bars = random_bars(101);
  for (const Target target : {Target::kVolatility, Target::kReturn, Target::kDirection}) {
    FinancialDataset before = open(bars, {.sequence_length = 7, .target = target});
    // Row r is bar r + 1; rows from 70 on, the validation part's first, have another future.
    for (const int64_t row : {70, 72, 85, 99}) {
      auto changed = bars;
      for (auto bar = changed.begin() + row + 1; bar != changed.end(); ++bar) *bar = {1, 50, 0.5, 2, 1e9};
      FinancialDataset after = open(changed, {.sequence_length = 7, .target = target});
      EXPECT_EQ(after.feature_mean(), before.feature_mean());
      EXPECT_EQ(after.feature_stddev(), before.feature_stddev());
      EXPECT_EQ(after.target_mean(), before.target_mean());
      EXPECT_EQ(after.target_stddev(), before.target_stddev());

      std::vector<size_t> past;  // targets before the change
      for (size_t i = 0; before.target_row(i) < row; ++i) past.push_back(i);
      const auto old_batch = before.get_batch(past);
      const auto new_batch = after.get_batch(past);
      EXPECT_TRUE(torch::equal(old_batch.data, new_batch.data));
      EXPECT_TRUE(torch::equal(old_batch.target, new_batch.target));

      // The window of the first target after the change ends before it; the next window does not.
      const size_t first = past.size();
      EXPECT_TRUE(torch::equal(before.get_batch({first}).data, after.get_batch({first}).data));
      if (first + 1 < before.size().value()) {
        EXPECT_FALSE(torch::equal(before.get_batch({first + 1}).data, after.get_batch({first + 1}).data));
      }
    }
  }
}

TEST_F(FinancialDatasetTest, ScalingFollowsTheTrainingPart) {
  auto bars = random_bars(101);
  const FinancialDataset before = open(bars, {.sequence_length = 7});
  bars[70].high *= 2;  // row 69, the last of the training part
  const FinancialDataset after = open(bars, {.sequence_length = 7});
  EXPECT_NE(after.target_mean(), before.target_mean());
  EXPECT_NE(after.feature_stddev()[1], before.feature_stddev()[1]);
}

TEST_F(FinancialDatasetTest, TrainingRowsAreStandardised) {
  FinancialDataset whole = open(random_bars(501), {.sequence_length = 1});
  // With windows of one row, samples 0 to 349 are the rows of the training part.
  const auto rows = whole.get_batch(c10::ArrayRef<size_t>(all_of(whole)).slice(0, 350)).data.squeeze(1);
  EXPECT_TRUE(torch::allclose(rows.mean(0), torch::zeros({4}), 0, 1e-5));
  EXPECT_TRUE(torch::allclose(rows.std(0, /*unbiased=*/false), torch::ones({4}), 0, 1e-5));
}

TEST_F(FinancialDatasetTest, AFeatureThatDoesNotVaryIsCentredAndNotBlownUp) {
  const std::vector<DayBar> bars(101, DayBar{3.3, 3.3, 3.3, 3.3, 0});
  FinancialDataset dataset = open(bars, {.sequence_length = 7});
  const auto batch = dataset.get_batch(all_of(dataset));
  EXPECT_TRUE(torch::allclose(batch.data, torch::zeros_like(batch.data), 0, 1e-9));
  EXPECT_EQ(dataset.feature_stddev(), std::vector<double>(4, 1.0));
}

TEST_F(FinancialDatasetTest, ScalesAFeatureInWhateverUnit) {
  for (const float unit : {1e-20F, 1e20F}) {
    auto table = testing::random_rows(200, {"log_range", "feature"});
    for (size_t i = 1; i < table.values.size(); i += 2) table.values[i] *= unit;
    FinancialOptions options{.sequence_length = 1};
    options.features = {"feature"};
    FinancialDataset dataset = FinancialDataset::open(write_converted(dir_, "one", table), options);
    const auto rows = dataset.get_batch(c10::ArrayRef<size_t>(all_of(dataset)).slice(0, 140)).data.flatten();
    EXPECT_NEAR(rows.std(/*unbiased=*/false).item<double>(), 1, 1e-4) << unit;
  }
}

TEST_F(FinancialDatasetTest, ScalesAWindowFarFromZeroByItsExactMean) {
  auto table = testing::random_rows(100, {"log_range", "feature"});
  std::mt19937_64 random(5);
  // A step of float32 is 2 there.
  for (size_t i = 1; i < table.values.size(); i += 2) table.values[i] = 20e6F + 2 * static_cast<float>(random() % 4);
  FinancialOptions options{.sequence_length = 7, .scaling = Scaling::kWindow};
  options.features = {"feature"};
  FinancialDataset dataset = FinancialDataset::open(write_converted(dir_, "one", table), options);
  const auto data = dataset.get_batch(all_of(dataset)).data.to(torch::kFloat64);
  EXPECT_LT(data.mean(1).abs().max().item<double>(), 1e-6);
}

TEST_F(FinancialDatasetTest, EveryValueIsFiniteForExtremePrices) {
  auto bars = random_bars(101);
  bars[10] = {1e-30, 1e30, 1e-30, 1e30, 1e30};
  bars[11] = {1, 1, 1, 1, 0};
  FinancialDataset dataset = open(bars, {.sequence_length = 7});
  EXPECT_TRUE(torch::isfinite(dataset.get_batch(all_of(dataset)).data).all().item<bool>());
}

TEST_F(FinancialDatasetTest, GetBatchEqualsANaiveImplementationInAnyOrderWithRepeats) {
  const auto bars = random_bars(301);
  FinancialDataset dataset =
      open(bars, {.sequence_length = 20, .target = Target::kLogReturn}).split(Split::kValidation);
  const std::vector<size_t> indices = {44, 0, 7, 7, 12, 43, 1};
  const auto batch = dataset.get_batch(indices);
  ASSERT_EQ(batch.data.sizes(), (std::vector<int64_t>{7, 20, 4}));
  EXPECT_TRUE(batch.data.is_contiguous());

  const auto feature = [&](size_t row, size_t c) {
    const DayBar& bar = bars[row + 1];
    const DayBar& previous = bars[row];
    switch (c) {
      case 0:
        return std::log(bar.close / previous.close);
      case 1:
        return std::log(std::log(bar.high / bar.low));
      case 2:
        return std::log(bar.volume / previous.volume);
      default:
        return std::log(bar.close / bar.open);
    }
  };
  const auto scaled = [&](size_t row, size_t c) {
    double mean = 0;
    double variance = 0;
    for (size_t r = 0; r < 210; ++r) mean += feature(r, c) / 210;
    for (size_t r = 0; r < 210; ++r) variance += std::pow(feature(r, c) - mean, 2) / 210;
    return (feature(row, c) - mean) / std::sqrt(variance);
  };
  for (size_t b = 0; b < indices.size(); ++b) {
    const size_t target_row = 210 + indices[b];
    const auto at = static_cast<int64_t>(b);
    EXPECT_NEAR(batch.target[at].item<float>(), scaled(target_row, 0), 1e-5);
    for (size_t t = 0; t < 20; ++t) {
      for (size_t c = 0; c < 4; ++c) {
        EXPECT_NEAR(batch.data[at][static_cast<int64_t>(t)][static_cast<int64_t>(c)].item<float>(),
                    scaled(target_row - 20 + t, c), 1e-5);
      }
    }
  }
}

TEST_F(FinancialDatasetTest, AnEmptyRequestGivesAnEmptyBatch) {
  FinancialDataset dataset = open(random_bars(101), {.sequence_length = 7});
  const auto batch = dataset.get_batch(std::vector<size_t>{});
  EXPECT_EQ(batch.data.sizes(), (std::vector<int64_t>{0, 7, 4}));
  EXPECT_EQ(batch.target.sizes(), (std::vector<int64_t>{0}));
}

TEST_F(FinancialDatasetTest, AnIndexOutOfRangeIsAnErrorWithIndexAndSize) {
  FinancialDataset dataset = open(random_bars(101), {.sequence_length = 7}).split(Split::kTest);
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const c10::IndexError& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  const std::string expected = "FinancialDataset: expected an index below the size 15, got 15";
  EXPECT_EQ(message([&] { dataset.get_batch(std::vector<size_t>{0, 15}); }), expected);
  EXPECT_EQ(message([&] { dataset.target(15); }), expected);
  EXPECT_EQ(message([&] { dataset.target_row(15); }), expected);
  EXPECT_EQ(message([&] { dataset.date(100); }), "FinancialDataset: expected a row in [0, 100), got 100");
  EXPECT_EQ(message([&] { dataset.date(-1); }), "FinancialDataset: expected a row in [0, 100), got -1");
}

TEST_F(FinancialDatasetTest, CopiesAndSplitsShareTheRows) {
  const FinancialDataset dataset = open(random_bars(101), {.sequence_length = 7});
  const FinancialDataset copy = dataset;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(&copy.feature_names(), &dataset.feature_names());
  EXPECT_EQ(&dataset.split(Split::kTest).feature_names(), &dataset.feature_names());
}

TEST_F(FinancialDatasetTest, TakesTheBarsFromOneDateToAnotherInclusive) {
  const auto bars = random_bars(201);
  FinancialOptions options{.sequence_length = 7};
  options.from = format_iso_date(kFirstDay + 50);
  options.to = format_iso_date(kFirstDay + 150);
  FinancialDataset part = open(bars, options);
  EXPECT_EQ(part.rows(), 101);
  EXPECT_EQ(part.date(0), options.from);
  EXPECT_EQ(part.last_target_date(), options.to);
  // The bar before the first gives that one its return.
  const std::vector<DayBar> same(bars.begin() + 49, bars.begin() + 151);
  EXPECT_EQ(part.target_series(), open(same, {.sequence_length = 7}).target_series());
}

TEST_F(FinancialDatasetTest, FeedsTorchDatasOwnLoader) {
  FinancialDataset train = open(random_bars(101), {.sequence_length = 7}).split(Split::kTrain);
  auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(
      train, torch::data::DataLoaderOptions().batch_size(10).workers(2));
  std::vector<torch::Tensor> targets;
  for (auto& batch : *loader) targets.push_back(batch.target);
  EXPECT_TRUE(torch::equal(torch::cat(targets), tensor_of(train.targets())));
}

TEST_F(FinancialDatasetTest, LoadsTheFileThatComesWithTorchfeed) {
  const std::string path = TORCHFEED_DATA_DIR "/sp500.csv";
  FinancialDataset dataset = FinancialDataset::open(path);
  EXPECT_EQ(dataset.rows(), 5104);
  EXPECT_EQ(dataset.size().value(), 5054u);
  EXPECT_EQ(dataset.split(Split::kTrain).size().value(), 3522u);
  EXPECT_EQ(dataset.split(Split::kValidation).size().value(), 766u);
  EXPECT_EQ(dataset.split(Split::kTest).size().value(), 766u);
  EXPECT_EQ(dataset.date(0), "2000-01-04");
  EXPECT_EQ(dataset.split(Split::kTest).last_target_date(), "2020-04-17");
  const auto batch = dataset.get_batch(all_of(dataset));
  EXPECT_TRUE(torch::isfinite(batch.data).all().item<bool>());
  EXPECT_TRUE(torch::isfinite(batch.target).all().item<bool>());
}

TEST_F(FinancialDatasetTest, RejectsOptionsOutOfRange) {
  const auto bars = random_bars(101);
  const std::string where = "FinancialOptions: ";
  const auto message = [&](const FinancialOptions& options) { return fault<c10::ValueError>(bars, options); };
  EXPECT_EQ(message({.sequence_length = 0}), where + "sequence_length: expected 1 to 281474976710656, got 0");
  EXPECT_EQ(message({.sequence_length = -5}), where + "sequence_length: expected 1 to 281474976710656, got -5");
  EXPECT_EQ(message({.train_fraction = 0}), where + "train_fraction: expected a number above 0 and below 1, got 0");
  EXPECT_EQ(message({.train_fraction = NAN}), where + "train_fraction: expected a number above 0 and below 1, got nan");
  EXPECT_EQ(message({.train_fraction = 0.9, .validation_fraction = 0.2}),
            where + "validation_fraction: expected a number above 0 and, with train_fraction 0.9, below 1, got 0.2");
  EXPECT_EQ(message({.validation_fraction = -0.1}),
            where + "validation_fraction: expected a number above 0 and, with train_fraction 0.7, below 1, got -0.1");
}

TEST_F(FinancialDatasetTest, RejectsDatesThatDoNotExistOrRunBackwards) {
  const auto bars = random_bars(101);
  const auto message = [&](const std::string& from, const std::string& to) {
    FinancialOptions options{.sequence_length = 7};
    options.from = from;
    options.to = to;
    return fault<c10::ValueError>(bars, options);
  };
  EXPECT_EQ(message("2010-02-30", ""),
            "FinancialOptions: from: expected a date that exists, as YYYY-MM-DD, got '2010-02-30'");
  EXPECT_EQ(message("", "yesterday"),
            "FinancialOptions: to: expected a date that exists, as YYYY-MM-DD, got 'yesterday'");
  EXPECT_EQ(message("2000-03-01", "2000-02-01"),
            "FinancialOptions: from: expected a date not after to (2000-02-01), got 2000-03-01");
}

TEST_F(FinancialDatasetTest, SaysThatNoBarsAreInRange) {
  FinancialOptions options{.sequence_length = 7};
  options.from = "2030-01-01";
  EXPECT_EQ(fault<DataError>(random_bars(3), options),
            path() + ": expected bars from 2030-01-01 to the end, got a file from 2000-01-04 to 2000-01-05");
}

TEST_F(FinancialDatasetTest, SaysThatThereAreFewerRowsThanAWindow) {
  EXPECT_EQ(fault<DataError>(random_bars(61), {.sequence_length = 50}),
            path() +
                ": expected more rows than one window of 50 in the training part and at least one row in each "
                "other, got 42 for training, 9 for validation, 9 for the test");
  EXPECT_EQ(fault<DataError>(random_bars(6), {.sequence_length = 1}), "no error");
}

}  // namespace
}  // namespace torchfeed::datasets
