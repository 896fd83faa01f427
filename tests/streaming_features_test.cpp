// Features by name: bar by bar as over columns, blind to the future, to be stopped and continued anywhere.
#include "support/bars.h"

#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/streaming_features.h>

#include <c10/util/Exception.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace torchfeed::datasets {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kDay;
using testing::random_bars;
using ::testing::StartsWith;
using Names = std::vector<std::string>;
using Values = std::vector<double>;

/// Every feature that there is, with windows of several lengths.
const Names& all_features() {
  static const Names kNames{"return",
                            "return_5",
                            "log_return",
                            "log_return_3",
                            "log_range",
                            "log_volume_change",
                            "log_close_open",
                            "sma_20",
                            "sma_1",
                            "ema_20",
                            "rsi_14",
                            "rsi_1",
                            "macd_12_26_9",
                            "bollinger_20_2",
                            "bollinger_7_2.5",
                            "atr_14",
                            "obv",
                            "vwap_20",
                            "stochastic_5_3_3",
                            "stochastic_14_1_3",
                            "volatility_20",
                            "zscore_20",
                            "zscore_2",
                            "day_of_week",
                            "month",
                            "hour_of_day",
                            "open",
                            "high",
                            "low",
                            "close",
                            "volume"};
  return kNames;
}

Bar bar_at(const ColumnTable& bars, std::size_t row) {
  return {bars.times[row],     bars.values[0][row], bars.values[1][row],
          bars.values[2][row], bars.values[3][row], bars.values[4][row]};
}

/// Rows [begin, end).
ColumnTable rows_of(const ColumnTable& bars, std::size_t begin, std::size_t end) {
  const auto cut = [&](const auto& column) {
    return std::decay_t<decltype(column)>(column.begin() + static_cast<std::ptrdiff_t>(begin),
                                          column.begin() + static_cast<std::ptrdiff_t>(end));
  };
  ColumnTable part{cut(bars.times), bars.names, {}};
  for (const auto& column : bars.values) part.values.push_back(cut(column));
  return part;
}

bool same_bits(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

/// The first row in which two columns differ by so much as a bit, or the number of rows.
std::size_t first_difference(const Values& a, const Values& b) {
  const auto differing = std::mismatch(a.begin(), a.end(), b.begin(), b.end(), same_bits);
  return static_cast<std::size_t>(differing.first - a.begin());
}

void expect_same(const ColumnTable& got, const ColumnTable& expected, const std::string& what) {
  EXPECT_EQ(got.names, expected.names) << what;
  EXPECT_EQ(got.times, expected.times) << what;
  ASSERT_EQ(got.values.size(), expected.values.size()) << what;
  for (std::size_t i = 0; i < got.values.size(); ++i) {
    ASSERT_EQ(got.values[i].size(), expected.values[i].size()) << what;
    EXPECT_EQ(first_difference(got.values[i], expected.values[i]), got.size()) << what << ": " << got.names[i];
  }
}

ColumnTable stream(StreamingFeatures& features, const ColumnTable& bars) {
  ColumnTable table{bars.times, features.columns(), {}};
  table.values.resize(features.columns().size());
  Values out(features.columns().size());
  for (std::size_t row = 0; row < bars.size(); ++row) {
    features.push(bar_at(bars, row), out);
    for (std::size_t i = 0; i < out.size(); ++i) table.values[i].push_back(out[i]);
  }
  return table;
}

template <typename Error, typename Call>
std::string fault(Call call) {
  try {
    call();
  } catch (const Error& error) {
    if constexpr (std::is_same_v<Error, c10::ValueError>) return error.what_without_backtrace();
    return error.what();
  }
  return "no error";
}

// ---- One code, two ways ----

TEST(StreamingFeatures, GiveBarByBarWhatColumnsGive) {
  const ColumnTable bars = random_bars(3000);
  const ColumnTable expected = compute_features(bars, all_features());
  EXPECT_EQ(expected.size(), 3000U);
  StreamingFeatures features(all_features());
  expect_same(stream(features, bars), expected, "bar by bar");
  EXPECT_EQ(features.bars(), 3000U);
  for (const int threads : {2, 3, 100}) {
    expect_same(compute_features(bars, all_features(), threads), expected, std::to_string(threads) + " threads");
  }
}

TEST(StreamingFeatures, TakeBlocksOfAnyLength) {
  const ColumnTable bars = random_bars(1500);
  const ColumnTable expected = compute_features(bars, all_features());
  StreamingFeatures features(all_features());
  ColumnTable got{{}, features.columns(), std::vector<Values>(features.columns().size())};
  std::size_t length = 0;
  for (std::size_t begin = 0; begin < bars.size(); begin += length) {
    length = std::min((length * 5 + 1) % 43, bars.size() - begin);  // 0 among them
    const ColumnTable block = features.push(rows_of(bars, begin, begin + length), 2);
    got.times.insert(got.times.end(), block.times.begin(), block.times.end());
    for (std::size_t i = 0; i < got.values.size(); ++i) {
      got.values[i].insert(got.values[i].end(), block.values[i].begin(), block.values[i].end());
    }
    ASSERT_EQ(got.size(), begin + length);
  }
  expect_same(got, expected, "in blocks");
}

TEST(StreamingFeatures, AreThePureFunctionsByName) {
  const ColumnTable bars = random_bars(500);
  const auto& [open, high, low, close, volume] =
      std::tie(bars.values[0], bars.values[1], bars.values[2], bars.values[3], bars.values[4]);
  const ColumnTable table = compute_features(bars, all_features());
  const auto expect = [&](const std::string& name, const Values& expected) {
    ASSERT_TRUE(table.find(name)) << name;
    EXPECT_EQ(first_difference(table.values[*table.find(name)], expected), bars.size()) << name;
  };
  expect("return", simple_return(close));
  expect("return_5", simple_return(close, 5));
  expect("log_return", log_return(close));
  expect("log_return_3", log_return(close, 3));
  expect("log_range", log_range(high, low));
  expect("log_volume_change", log_volume_change(volume));
  expect("log_close_open", log_close_open(open, close));
  expect("sma_20", sma(close, 20));
  expect("ema_20", ema(close, 20));
  expect("rsi_14", rsi(close));
  expect("macd_12_26_9", macd(close).line);
  expect("macd_12_26_9_signal", macd(close).signal);
  expect("macd_12_26_9_histogram", macd(close).histogram);
  expect("bollinger_7_2.5_upper", bollinger(close, 7, 2.5).upper);
  expect("bollinger_20_2_middle", bollinger(close).middle);
  expect("bollinger_20_2_lower", bollinger(close).lower);
  expect("bollinger_20_2_bandwidth", bollinger(close).bandwidth);
  expect("bollinger_20_2_percent_b", bollinger(close).percent_b);
  expect("atr_14", atr(high, low, close));
  expect("obv", obv(close, volume));
  expect("vwap_20", vwap(high, low, close, volume, 20));
  expect("stochastic_5_3_3_k", stochastic(high, low, close).k);
  expect("stochastic_14_1_3_d", stochastic(high, low, close, 14, 1, 3).d);
  expect("volatility_20", volatility(close, 20));
  expect("zscore_20", zscore(close, 20));
  expect("day_of_week_sin", day_of_week(bars.times).sine);
  expect("month_cos", month(bars.times).cosine);
  expect("hour_of_day_sin", hour_of_day(bars.times).sine);
  expect("volume", volume);
}

// ---- The future ----

TEST(NoLookAhead, NoFeatureDependsOnLaterBars) {
  const ColumnTable bars = random_bars(1200);
  const ColumnTable before = compute_features(bars, all_features());
  for (const std::size_t from : {1, 40, 333, 1000}) {
    ColumnTable other = bars;
    for (std::size_t t = from; t < other.size(); ++t) {
      const double factor = t % 3 == 0 ? 0.5 : 1.7;
      for (std::size_t column = 0; column < 4; ++column) other.values[column][t] *= factor;
      other.values[1][t] *= 1.25;
      other.values[3][t] *= 1.125;
      other.values[4][t] = other.values[4][t] * 2 + static_cast<double>(t);
      other.times[t] += 100 * kDay + static_cast<std::int64_t>(t) * (kDay / 7);
    }
    const ColumnTable after = compute_features(other, all_features());
    for (std::size_t i = 0; i < before.values.size(); ++i) {
      const std::size_t difference = first_difference(before.values[i], after.values[i]);
      EXPECT_GE(difference, from) << before.names[i] << " knows the future";
      EXPECT_LE(difference, from + 40) << before.names[i] << " knows nothing";
    }
  }
}

TEST(NoLookAhead, AFeatureOfTheNextBarWouldBeSeen) {
  const ColumnTable bars = random_bars(100);
  Values cheat = compute_features(bars, {"sma_3"}).values[0];
  std::rotate(cheat.begin(), cheat.begin() + 1, cheat.end());
  ColumnTable other = bars;
  other.values[3][50] *= 2;
  Values after = compute_features(other, {"sma_3"}).values[0];
  std::rotate(after.begin(), after.begin() + 1, after.end());
  EXPECT_EQ(first_difference(cheat, after), 49U);
}

// ---- Warm-up ----

TEST(WarmUp, EndsWhenEveryNumberIsFinite) {
  const ColumnTable bars = testing::sp500_bars();
  for (const auto& name : all_features()) {
    const std::size_t warm_up = StreamingFeatures({name}).warm_up();
    const ColumnTable table = compute_features(bars, {name});
    for (std::size_t row = 0; row < table.size(); ++row) {
      const bool all_finite = std::all_of(table.values.begin(), table.values.end(),
                                          [&](const Values& column) { return std::isfinite(column[row]); });
      ASSERT_EQ(all_finite, row >= warm_up) << name << " at bar " << row;
    }
  }
  EXPECT_EQ(StreamingFeatures(all_features()).warm_up(), 33U) << "that of macd_12_26_9";
  EXPECT_EQ(StreamingFeatures({}).warm_up(), 0U);
}

TEST(WarmUp, IsFollowedByFiniteNumbersForExtremePrices) {
  ColumnTable bars = random_bars(500);
  for (std::size_t t = 0; t < bars.size(); ++t) {
    const double scale = t % 5 == 0 ? 1e-100 : (t % 3 == 0 ? 1e100 : 1e-10);
    bars.values[4][t] = t % 2 == 0 ? 0 : scale;
    for (const std::size_t column : {0, 1, 2, 3}) bars.values[column][t] = scale;
    bars.values[1][t] = 1e100;
  }
  const ColumnTable table = compute_features(bars, all_features());
  const auto warm_up = static_cast<std::ptrdiff_t>(StreamingFeatures(all_features()).warm_up());
  for (std::size_t i = 0; i < table.values.size(); ++i) {
    EXPECT_TRUE(std::all_of(table.values[i].begin() + warm_up, table.values[i].end(), [](double value) {
      return std::isfinite(value);
    })) << table.names[i];
  }
}

// ---- State ----

TEST(FeatureState, GoesOnExactlyFromAnyBar) {
  const ColumnTable bars = random_bars(400);
  const ColumnTable expected = compute_features(bars, all_features());
  StreamingFeatures first(all_features());
  Values out(first.columns().size());
  for (std::size_t split = 0; split < 130; ++split) {
    const Values state = first.state();
    StreamingFeatures second(all_features());
    second.load_state(state);
    EXPECT_EQ(second.bars(), split);
    EXPECT_EQ(second.state(), state);
    for (std::size_t row = split; row < split + 60; ++row) {
      second.push(bar_at(bars, row), out);
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_TRUE(same_bits(out[i], expected.values[i][row]))
            << expected.names[i] << " at " << row << " of " << split;
      }
    }
    first.push(bar_at(bars, split), out);
  }
}

TEST(FeatureState, KeepsTheTimeOfTheLastBar) {
  StreamingFeatures first({"close"});
  Values out(1);
  first.push({-5, 1, 1, 1, 1, 1}, out);
  StreamingFeatures second({"close"});
  second.load_state(first.state());
  EXPECT_EQ(fault<c10::ValueError>([&] {
              second.push({-5, 1, 1, 1, 1, 1}, out);
            }),
            "StreamingFeatures: push: expected a time after the bar before, -5 ns, got -5 at bar 1");
  EXPECT_NO_THROW(second.push({-4, 1, 1, 1, 1, 1}, out));
}

TEST(FeatureState, OfOtherFeaturesAndDamagedOnesAreRefused) {
  const ColumnTable bars = random_bars(50);
  StreamingFeatures features({"sma_3", "rsi_5"});
  stream(features, bars);
  const Values state = features.state();
  const auto refuses = [&](const Values& bad, const std::string& message) {
    EXPECT_THAT(fault<c10::ValueError>([&] { features.load_state(bad); }), HasSubstr(message));
    EXPECT_EQ(features.state(), state) << "as it was";
  };
  refuses({}, "load_state: expected more than 0 numbers");
  refuses(StreamingFeatures({"sma_4", "rsi_5"}).state(), "load_state: expected the state of sma_3, rsi_5");
  refuses(Values(state.begin(), state.end() - 1), "load_state: expected more than ");
  Values other = state;
  other.push_back(0);
  refuses(other, "load_state: expected " + std::to_string(state.size()) + " numbers, got ");
  other = state;
  other[0] = 2;
  refuses(other, "load_state: expected version 1, got 2");
  other = state;
  other.back() = std::numeric_limits<double>::quiet_NaN();
  refuses(other, "load_state: expected finite numbers, got nan");
  for (const double index : {-1.0, 0.5, 1e300}) {
    // Whatever is not a value of the series is an index, and none of them may lead out of its window.
    std::size_t refused = 0;
    for (std::size_t i = 0; i < state.size(); ++i) {
      other = state;
      other[i] = index;
      refused += fault<c10::ValueError>([&] { StreamingFeatures({"sma_3", "rsi_5"}).load_state(other); }) != "no error";
    }
    EXPECT_GE(refused, 12U);
  }
}

// ---- Names ----

TEST(FeatureNames, GiveAColumnForEachNumber) {
  EXPECT_THAT(StreamingFeatures({"RSI_14", "macd_12_26_9", "Close"}).columns(),
              ElementsAre("rsi_14", "macd_12_26_9", "macd_12_26_9_signal", "macd_12_26_9_histogram", "close"));
  EXPECT_THAT(StreamingFeatures({"bollinger_20_2.5"}).columns(),
              ElementsAre("bollinger_20_2.5_upper", "bollinger_20_2.5_middle", "bollinger_20_2.5_lower",
                          "bollinger_20_2.5_bandwidth", "bollinger_20_2.5_percent_b"));
  EXPECT_THAT(StreamingFeatures({"month", "stochastic_5_3_3"}).columns(),
              ElementsAre("month_sin", "month_cos", "stochastic_5_3_3_k", "stochastic_5_3_3_d"));
}

TEST(FeatureNames, AlsoNameOneColumnOfSeveral) {
  const ColumnTable bars = random_bars(100);
  const ColumnTable all = compute_features(bars, {"bollinger_20_2"});
  const ColumnTable one = compute_features(bars, {"bollinger_20_2_percent_b", "bollinger_20_2_lower"});
  EXPECT_THAT(one.names, ElementsAre("bollinger_20_2_percent_b", "bollinger_20_2_lower"));
  EXPECT_EQ(first_difference(one.values[0], all.values[4]), bars.size());
  EXPECT_EQ(first_difference(one.values[1], all.values[2]), bars.size());
}

TEST(FeatureNames, AreKnownOrAnError) {
  for (const auto& name : all_features()) EXPECT_TRUE(is_feature(name)) << name;
  for (const char* name : {"",
                           "sma",
                           "sma_",
                           "sma_x",
                           "sma_20_30",
                           "sma20",
                           "sma_20_upper",
                           "sma_1e2",
                           "sma_-5",
                           "obv_2",
                           "macd_12_26",
                           "log_range_2",
                           "bollinger_20_2_upper_upper",
                           "adjclose",
                           "return_",
                           "sma_..",
                           "sma_0",
                           "sma_2.5",
                           "sma_99999999999999999999",
                           "macd_26_12_9"}) {
    EXPECT_FALSE(is_feature(name)) << name;
  }
  EXPECT_EQ(fault<c10::ValueError>([] {
              StreamingFeatures({"sma_20", "sma"});
            }),
            "features: expected some of " + feature_names() + "; got 'sma'");
  EXPECT_THAT(feature_names(), StartsWith("return[_N], log_return[_N], log_range, "));
  EXPECT_THAT(feature_names(), HasSubstr(", macd_FAST_SLOW_SIGNAL, bollinger_N_K, atr_N, "));
  EXPECT_EQ(fault<c10::ValueError>([] { StreamingFeatures({"sma_2000000"}); }),
            "sma: bars: expected a whole number from 1 to 1000000, got 2000000");
  EXPECT_EQ(fault<c10::ValueError>([] {
              StreamingFeatures({"macd_12_26_9", "macd_12_26_9_signal"});
            }),
            "features: expected each column once, got macd_12_26_9_signal twice");
}

// ---- Columns of the data ----

TEST(ComputeFeatures, GivesOtherColumnsAsTheyAre) {
  const ColumnTable bars = testing::sp500_bars();
  const ColumnTable table = compute_features(bars, {"AdjClose", "macd_3_6_2", "volume"});
  EXPECT_THAT(table.names,
              ElementsAre("adjclose", "macd_3_6_2", "macd_3_6_2_signal", "macd_3_6_2_histogram", "volume"));
  EXPECT_EQ(table.values[0], bars.values[bars.find("adjclose").value()]);
  EXPECT_EQ(first_difference(table.values[2], macd(bars.values[bars.find("close").value()], 3, 6, 2).signal),
            bars.size());
  EXPECT_EQ(table.values[4], bars.values[bars.find("volume").value()]);
  EXPECT_EQ(fault<c10::ValueError>([&] { compute_features(bars, {"nothing"}); }),
            "features: expected some of " + feature_names() +
                ", or a column of the data (open, high, low, close, adjclose, volume); got 'nothing'");
  EXPECT_EQ(fault<c10::ValueError>([&] {
              compute_features(bars, {"adjclose", "adjclose"});
            }),
            "features: expected each column once, got adjclose twice");
}

TEST(ComputeFeatures, NeedsOnlyTheColumnsThatTheFeaturesUse) {
  ColumnTable bars = random_bars(50);
  bars.names = {"open", "high", "low", "close", "turnover"};
  bars.values[4][7] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(compute_features(bars, {"atr_5", "turnover", "month"}).names.size(), 4U);
  EXPECT_EQ(fault<DataError>([&] {
              compute_features(bars, {"atr_5", "vwap_5"});
            }),
            "features: expected a column volume, which vwap_5 uses, got open, high, low, close, turnover");
}

TEST(ComputeFeatures, TellsWhatIsWrongWithTheBars) {
  const ColumnTable bars = random_bars(50);
  const auto fault_of = [&](auto change) {
    ColumnTable bad = bars;
    change(bad);
    return fault<DataError>([&] { compute_features(bad, {"vwap_5", "open"}); });
  };
  EXPECT_EQ(
      fault_of([](ColumnTable& bad) { bad.values[3][17] = -2.5; }),
      "features: expected a finite number above zero, got close -2.5 at bar 17, " + csv::format_time(bars.times[17]));
  EXPECT_EQ(
      fault_of([](ColumnTable& bad) { bad.values[0][49] = std::numeric_limits<double>::infinity(); }),
      "features: expected a finite number above zero, got open inf at bar 49, " + csv::format_time(bars.times[49]));
  EXPECT_EQ(
      fault_of([](ColumnTable& bad) { bad.values[4][0] = std::numeric_limits<double>::quiet_NaN(); }),
      "features: expected a finite number not below zero, got volume nan at bar 0, " + csv::format_time(bars.times[0]));
  EXPECT_EQ(fault_of([](ColumnTable& bad) {
              bad.times = {3, 5, 5};
              bad.times.resize(50, 9);
            }),
            "features: expected a time after the bar before, 5 ns, got 5 at bar 2");
  EXPECT_EQ(fault_of([](ColumnTable& bad) { bad.values[2].pop_back(); }),
            "features: expected 50 numbers in the column low, as there are times, got 49");
  EXPECT_EQ(fault<c10::ValueError>([&] { compute_features(bars, {"open"}, 0); }),
            "features: threads: expected 1 or more, got 0");
}

TEST(StreamingFeatures, RefuseABadBarAndStayAsTheyWere) {
  const ColumnTable bars = random_bars(60);
  const ColumnTable expected = compute_features(bars, {"rsi_5", "vwap_5"});
  StreamingFeatures features({"rsi_5", "vwap_5"});
  Values out(2);
  for (std::size_t row = 0; row < bars.size(); ++row) {
    Bar bad = bar_at(bars, row);
    bad.close = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(fault<c10::ValueError>([&] { features.push(bad, out); }),
              "StreamingFeatures: push: expected a finite number above zero, got close nan at bar " +
                  std::to_string(row) + ", " + csv::format_time(bad.time));
    bad = bar_at(bars, row);
    bad.volume = -1;
    EXPECT_THAT(fault<c10::ValueError>([&] { features.push(bad, out); }), HasSubstr("not below zero, got volume -1"));
    bad = bar_at(bars, row);
    bad.open = -1;  // which neither of them looks at
    features.push(bad, out);
    EXPECT_THAT(fault<c10::ValueError>([&] { features.push(bad, out); }), HasSubstr("expected a time after"));
    for (std::size_t i = 0; i < 2; ++i) ASSERT_TRUE(same_bits(out[i], expected.values[i][row])) << row;
  }
  Values three(3);
  EXPECT_EQ(fault<c10::ValueError>([&] { features.push(bar_at(bars, 0), three); }),
            "StreamingFeatures: push: out: expected 2 numbers, got 3");
}

}  // namespace
}  // namespace torchfeed::datasets
