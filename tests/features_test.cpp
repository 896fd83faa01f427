// Features by hand, against TA-Lib's numbers, where nothing moves, and after a million bars.
#include "support/bars.h"

#include <torchfeed/datasets/features.h>

#include <c10/util/Exception.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace torchfeed::datasets {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::kDay;
using ::testing::NanSensitiveDoubleNear;
using ::testing::Pointwise;
using Values = std::vector<double>;

const double kNone = std::numeric_limits<double>::quiet_NaN();

/// As long as `expected`, and within 1e-9 of it, with NaN where it has NaN.
auto are(const Values& expected) { return Pointwise(::testing::NanSensitiveDoubleNear(1e-9), expected); }

// ---- By hand ----

TEST(Features, ReturnsAreOverTheBarsBefore) {
  EXPECT_THAT(simple_return(Values{100, 110, 99}), are({kNone, 0.1, -0.1}));
  EXPECT_THAT(simple_return(Values{100, 110, 99, 121}, 2), are({kNone, kNone, -0.01, 0.1}));
  const double two = std::log(2);
  EXPECT_THAT(log_return(Values{1, 2, 8, 4}), are({kNone, two, 2 * two, -two}));
  EXPECT_THAT(log_return(Values{1, 2, 8, 4}, 3), are({kNone, kNone, kNone, 2 * two}));
}

TEST(Features, LogRangeHasAFloor) {
  EXPECT_THAT(log_range(Values{std::exp(1), 5, 5.00001}, Values{1, 5, 5}), are({0, std::log(1e-4), std::log(1e-4)}));
}

TEST(Features, LogVolumeChangeIsZeroBesideABarWithoutVolume) {
  EXPECT_THAT(log_volume_change(Values{1, 2, 0, 4, 1}), are({kNone, std::log(2), 0, 0, -std::log(4)}));
}

TEST(Features, LogCloseOpenIsOfOneBar) {
  EXPECT_THAT(log_close_open(Values{2, 4}, Values{4, 2}), are({std::log(2), -std::log(2)}));
}

TEST(Features, SimpleAverageIsTheMeanOfTheLastBars) {
  EXPECT_THAT(sma(Values{1, 2, 3, 5, 9}, 3), are({kNone, kNone, 2, 10.0 / 3, 17.0 / 3}));
  EXPECT_THAT(sma(Values{1, 2, 3}, 1), ElementsAre(1, 2, 3));
  EXPECT_THAT(sma(Values{1, 2}, 3), are({kNone, kNone}));
  EXPECT_THAT(sma(Values{}, 3), ElementsAre());
}

TEST(Features, ExponentialAverageStartsWithTheMean) {
  EXPECT_THAT(ema(Values{2, 4, 6, 12, 8}, 3), are({kNone, kNone, 4, 8, 8}));
}

TEST(Features, MacdStartsBothAveragesAtOneBar) {
  // Slow: 3, 4, 4, 6 from bar 2 on; fast, from the mean of 2 and 3 there: 5/2, 25/6, 73/18, 361/54.
  const Macd values = macd(Values{4, 2, 3, 5, 4, 8}, 2, 3, 2);
  const double at3 = 25.0 / 6 - 4;
  const double at4 = 73.0 / 18 - 4;
  const double at5 = 361.0 / 54 - 6;
  EXPECT_THAT(values.line, are({kNone, kNone, kNone, at3, at4, at5}));
  const double signal3 = (-0.5 + at3) / 2;
  const double signal4 = signal3 + (at4 - signal3) * 2 / 3;
  const double signal5 = signal4 + (at5 - signal4) * 2 / 3;
  EXPECT_THAT(values.signal, are({kNone, kNone, kNone, signal3, signal4, signal5}));
  EXPECT_THAT(values.histogram, are({kNone, kNone, kNone, at3 - signal3, at4 - signal4, at5 - signal5}));
}

TEST(Features, RelativeStrengthIsWilders) {
  // Gains and losses of 2 smoothed: at 2 (0.5, 0.5), at 3 (1.25, 0.25), at 4 (0.625, 1.125).
  EXPECT_THAT(rsi(Values{10, 11, 10, 12, 10}, 2), are({kNone, kNone, 50, 100 * 1.25 / 1.5, 100 * 0.625 / 1.75}));
  EXPECT_THAT(rsi(Values{10, 9, 9, 10}, 1), are({kNone, 0, 50, 100})) << "of one bar's move";
}

TEST(Features, BollingerBandsAreDeviationsAroundTheMean) {
  const Bollinger bands = bollinger(Values{1, 2, 3, 2}, 3, 2);
  const double first = std::sqrt(2.0 / 3);
  const double second = std::sqrt(2.0 / 9);
  EXPECT_THAT(bands.upper, are({kNone, kNone, 2 + 2 * first, 7.0 / 3 + 2 * second}));
  EXPECT_THAT(bands.middle, are({kNone, kNone, 2, 7.0 / 3}));
  EXPECT_THAT(bands.lower, are({kNone, kNone, 2 - 2 * first, 7.0 / 3 - 2 * second}));
  EXPECT_THAT(bands.bandwidth, are({kNone, kNone, 2 * first, 4 * second * 3 / 7}));
  EXPECT_THAT(bands.percent_b,
              are({kNone, kNone, (1 + 2 * first) / (4 * first), (2 * second - 1.0 / 3) / (4 * second)}));
}

TEST(Features, AverageTrueRangeReachesToTheCloseBefore) {
  // True ranges 12 - 9, 11 - 9, 15 - 10.
  EXPECT_THAT(atr(Values{10, 12, 11, 15}, Values{8, 9, 9, 12}, Values{9, 11, 10, 14}, 2),
              are({kNone, kNone, 2.5, 3.75}));
}

TEST(Features, OnBalanceVolumeTakesTheSideOfTheClose) {
  EXPECT_THAT(obv(Values{10, 11, 11, 9}, Values{5, 7, 3, 4}), ElementsAre(5, 12, 12, 8));
}

TEST(Features, VolumeWeightedPriceIsOfTypicalPrices) {
  const Values high{12, 20, 30, 40};
  const Values low{9, 20, 30, 40};
  const Values close{9, 20, 30, 40};
  EXPECT_THAT(vwap(high, low, close, Values{1, 3, 0, 0}, 2), are({kNone, 17.5, 20, 40})) << "40: nothing traded";
}

TEST(Features, StochasticIsTheClosesPlaceInTheRange) {
  // Per cent 80, 80, 20, 100 from bar 1 on; their means of two from bar 2 on, and of these from bar 3 on.
  const Stochastic values = stochastic(Values{5, 6, 7, 8, 9}, Values{1, 2, 3, 4, 5}, Values{3, 5, 6, 4, 9}, 2, 2, 2);
  EXPECT_THAT(values.k, are({kNone, kNone, kNone, 50, 60}));
  EXPECT_THAT(values.d, are({kNone, kNone, kNone, 65, 55}));
}

TEST(Features, VolatilityIsTheDeviationOfLogReturns) {
  EXPECT_THAT(volatility(Values{1, std::exp(1), std::exp(3), std::exp(5)}, 2), are({kNone, kNone, 0.5, 0}));
}

TEST(Features, StandardScoreIsInDeviations) {
  EXPECT_THAT(zscore(Values{1, 2, 3, 2}, 3), are({kNone, kNone, std::sqrt(1.5), -std::sqrt(0.5)}));
}

TEST(Features, CalendarIsOnCirclesAlsoBefore1970) {
  // Monday 2000-01-03, Tuesday 2000-04-04 06:00, Wednesday 1969-12-31 at its last nanosecond.
  const std::vector<std::int64_t> times{10'959 * kDay, 11'051 * kDay + kDay / 4, -1};
  const auto at = [](double turns) { return 2 * std::acos(-1) * turns; };
  const Cycle week = day_of_week(times);
  EXPECT_THAT(week.sine, are({0, std::sin(at(1.0 / 7)), std::sin(at(2.0 / 7))}));
  EXPECT_THAT(week.cosine, are({1, std::cos(at(1.0 / 7)), std::cos(at(2.0 / 7))}));
  const Cycle year = month(times);
  EXPECT_THAT(year.sine, are({0, 1, -0.5}));
  EXPECT_THAT(year.cosine, are({1, 0, std::sqrt(0.75)}));
  const Cycle day = hour_of_day(times);
  EXPECT_THAT(day.sine, are({0, 1, 0}));
  EXPECT_THAT(day.cosine, are({1, 0, 1}));
}

// ---- TA-Lib ----

/// What features_talib.csv has, by its columns' names.
std::map<std::string, Values> features_of_sp500() {
  const ColumnTable bars = testing::sp500_bars();
  const auto column = [&](const char* name) { return bars.values[bars.find(name).value()]; };
  const Values high = column("high");
  const Values low = column("low");
  const Values close = column("close");
  const Values volume = column("volume");
  std::map<std::string, Values> all;
  all["return_5"] = simple_return(close, 5);
  all["log_return"] = log_return(close);
  all["sma_20"] = sma(close, 20);
  all["ema_20"] = ema(close, 20);
  all["rsi_14"] = rsi(close);
  const Macd convergence = macd(close);
  all["macd_12_26_9"] = convergence.line;
  all["macd_12_26_9_signal"] = convergence.signal;
  all["macd_12_26_9_histogram"] = convergence.histogram;
  const Bollinger bands = bollinger(close);
  all["bollinger_20_2_upper"] = bands.upper;
  all["bollinger_20_2_middle"] = bands.middle;
  all["bollinger_20_2_lower"] = bands.lower;
  all["atr_14"] = atr(high, low, close);
  all["obv"] = obv(close, volume);
  all["vwap_20"] = vwap(high, low, close, volume, 20);
  const Stochastic slow = stochastic(high, low, close);
  all["stochastic_5_3_3_k"] = slow.k;
  all["stochastic_5_3_3_d"] = slow.d;
  const Stochastic fast = stochastic(high, low, close, 14, 1, 3);
  all["stochastic_14_1_3_k"] = fast.k;
  all["stochastic_14_1_3_d"] = fast.d;
  all["volatility_20"] = volatility(close, 20);
  all["zscore_20"] = zscore(close, 20);
  return all;
}

TEST(TaLib, GivesTheSameNumbersAfterTheSameWarmUp) {
  const auto ours = features_of_sp500();
  const auto [names, columns] =
      testing::read_cells(std::string(TORCHFEED_DATA_DIR) + "/../../tests/data/features_talib.csv");
  ASSERT_EQ(names.size(), ours.size() + 1);
  ASSERT_GT(columns[0].size(), 50U);
  for (std::size_t i = 1; i < names.size(); ++i) {
    const Values& values = ours.at(names[i]);
    std::size_t numbers = 0;
    for (std::size_t row = 0; row < columns[0].size(); ++row) {
      const double value = values.at(std::stoul(columns[0][row]));
      const std::string& cell = columns[i][row];
      EXPECT_EQ(std::isnan(value), cell.empty()) << names[i] << " at bar " << columns[0][row];
      if (cell.empty()) continue;
      // TA-Lib takes variances as differences of mean squares: some 1e-10 is lost.
      const double expected = std::stod(cell);
      EXPECT_NEAR(value, expected, 1e-9 * std::abs(expected) + 1e-11) << names[i] << " at bar " << columns[0][row];
      ++numbers;
    }
    EXPECT_GT(numbers, 20U) << names[i];
  }
}

// ---- Nothing moves ----

TEST(Features, OfAPriceThatNeverMovesAreInTheMiddle) {
  for (const double price : {0.1, 7.3, 1e9 / 3}) {
    const Values flat(100, price);
    const Values volume(100, 0.7);
    const auto settled = [](Values values, std::size_t warm_up) {
      values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(warm_up));
      return values;
    };
    EXPECT_THAT(settled(simple_return(flat, 3), 3), Each(0));
    EXPECT_THAT(settled(log_return(flat), 1), Each(0));
    EXPECT_THAT(settled(sma(flat, 7), 6), Each(price)) << "to the last bit";
    EXPECT_THAT(settled(ema(flat, 7), 6), Each(price));
    EXPECT_THAT(settled(rsi(flat, 7), 7), Each(50));
    const Macd convergence = macd(flat, 3, 7, 2);
    EXPECT_THAT(settled(convergence.line, 7), Each(0));
    EXPECT_THAT(settled(convergence.signal, 7), Each(0));
    EXPECT_THAT(settled(convergence.histogram, 7), Each(0));
    const Bollinger bands = bollinger(flat, 7, 2);
    EXPECT_THAT(settled(bands.upper, 6), Each(price));
    EXPECT_THAT(settled(bands.lower, 6), Each(price));
    EXPECT_THAT(settled(bands.bandwidth, 6), Each(0));
    EXPECT_THAT(settled(bands.percent_b, 6), Each(0.5));
    EXPECT_THAT(settled(atr(flat, flat, flat, 7), 7), Each(0));
    const Stochastic place = stochastic(flat, flat, flat);
    EXPECT_THAT(settled(place.k, 8), Each(50));
    EXPECT_THAT(settled(place.d, 8), Each(50));
    EXPECT_THAT(settled(volatility(flat, 7), 7), Each(0));
    EXPECT_THAT(settled(zscore(flat, 7), 6), Each(0));
    EXPECT_THAT(settled(vwap(flat, flat, flat, volume, 7), 6), Each(DoubleNear(price, 1e-15 * price)));
    EXPECT_THAT(settled(obv(flat, volume), 0), Each(0.7));
  }
}

// ---- Long series ----

constexpr std::size_t kMany = 1'200'000;

/// Prices near 1e9 that move by some 1e-3: of their squares' 1e18, a double cannot even hold differences of 100.
const Values& high_prices() {
  static const Values kPrices = [] {
    std::mt19937_64 random(5);
    std::normal_distribution<double> normal(0, 1e-3);
    Values prices(kMany);
    double walk = 0;
    for (double& price : prices) price = 1e9 + (walk = 0.99 * walk + normal(random));
    return prices;
  }();
  return kPrices;
}

/// Mean and deviation of the `bars` values up to t, computed afresh; the mean from the value at t.
struct Exact {
  long double mean_from_here = 0;
  long double deviation = 0;
};

Exact exactly(const Values& values, std::size_t t, std::size_t bars) {
  const auto here = static_cast<long double>(values[t]);
  Exact exact;
  for (std::size_t i = t + 1 - bars; i <= t; ++i) exact.mean_from_here += values[i] - here;
  exact.mean_from_here /= static_cast<long double>(bars);
  long double squares = 0;
  for (std::size_t i = t + 1 - bars; i <= t; ++i) {
    const long double apart = (values[i] - here) - exact.mean_from_here;
    squares += apart * apart;
  }
  exact.deviation = std::sqrt(squares / static_cast<long double>(bars));
  return exact;
}

TEST(LongSeries, MovingMeansAndDeviationsOfHighPricesLoseNothing) {
  const Values& prices = high_prices();
  for (const int bars : {2, 20, 250, 5000}) {
    const auto window = static_cast<std::size_t>(bars);
    const Values mean = sma(prices, bars);
    const Bollinger bands = bollinger(prices, bars, 1);
    const Values score = zscore(prices, bars);
    for (std::size_t t = 1'000'000; t < kMany; t += 997) {
      const Exact exact = exactly(prices, t, window);
      const double deviation = static_cast<double>(exact.deviation);
      ASSERT_NEAR(mean[t], static_cast<double>(prices[t] + exact.mean_from_here), 1.2e-7)
          << "one step of a double, " << bars << " at " << t;
      ASSERT_NEAR(bands.bandwidth[t] * bands.middle[t] / 2 / deviation, 1, 1e-11) << bars << " at " << t;
      ASSERT_NEAR(score[t], static_cast<double>(-exact.mean_from_here / exact.deviation), 1e-10) << bars << " at " << t;
    }
  }
}

TEST(LongSeries, SmoothedValuesFollowTheirRecurrence) {
  const Values& prices = high_prices();
  const Values average = ema(prices, 20);
  const Values range = atr(prices, prices, prices, 14);
  long double expected_average = 0;
  for (std::size_t t = 0; t < 20; ++t) expected_average += prices[t] / 20.0L;
  long double expected_range = 0;
  for (std::size_t t = 1; t < kMany; ++t) {
    const long double move = std::abs(static_cast<long double>(prices[t]) - prices[t - 1]);
    expected_range = t <= 14 ? expected_range + move / 14 : (expected_range * 13 + move) / 14;
    if (t >= 20) expected_average += (prices[t] - expected_average) * 2 / 21;
  }
  EXPECT_NEAR(average.back(), static_cast<double>(expected_average), 1e-6);
  EXPECT_NEAR(range.back() / static_cast<double>(expected_range), 1, 1e-12);
}

TEST(LongSeries, AHugeValueLeavesNoTraceOnceItHasLeftTheWindows) {
  const Values prices(high_prices().begin(), high_prices().begin() + 5000);
  const Values volume(prices.size(), 3);
  Values shaken = prices;
  shaken[1234] = 1e60;
  constexpr std::size_t kBars = 50;
  const auto traces = [&](const std::function<Values(const Values&)>& feature) {
    const Values expected = feature(prices);
    const Values got = feature(shaken);
    std::size_t differences = 0;
    for (std::size_t t = 1234 + 2 * kBars; t < prices.size(); ++t) differences += got[t] != expected[t] ? 1 : 0;
    EXPECT_NE(got[1234], expected[1234]);
    return differences;
  };
  EXPECT_EQ(traces([](const Values& close) { return sma(close, kBars); }), 0U);
  EXPECT_EQ(traces([](const Values& close) { return bollinger(close, kBars).upper; }), 0U);
  EXPECT_EQ(traces([](const Values& close) { return zscore(close, kBars); }), 0U);
  EXPECT_EQ(traces([](const Values& close) { return volatility(close, kBars); }), 0U);
  EXPECT_EQ(traces([&](const Values& close) { return vwap(close, close, close, volume, kBars); }), 0U);
}

TEST(LongSeries, OnBalanceVolumeKeepsSmallVolumesBesideALargeSum) {
  constexpr double kVolume = 0.1;  // which no double is, so that every sum is rounded
  Values close(kMany);
  Values volume(kMany, kVolume);
  volume[0] = 1e12;
  double plain = volume[0];
  double balance = 0;
  for (std::size_t t = 0; t < kMany; ++t) {
    close[t] = t % 3 == 2 ? 1 : 2 + static_cast<double>(t % 3);  // 2, 3, 1: two up, one down
    if (t == 0) continue;
    plain += t % 3 == 2 ? -kVolume : kVolume;
    balance += t % 3 == 2 ? -1 : 1;
  }
  const double expected = 1e12 + balance * kVolume;
  EXPECT_NEAR(obv(close, volume).back(), expected, 2e-4) << "one step of a double at 1e12";
  EXPECT_GT(std::abs(plain - expected), 1) << "else this would test nothing";
}

TEST(LongSeries, StochasticFindsTheExtremesOfEveryWindow) {
  const ColumnTable bars = testing::random_bars(3000);
  const Values& high = bars.values[1];
  const Values& low = bars.values[2];
  const Values& close = bars.values[3];
  for (const std::size_t window : {1, 2, 3, 14, 100}) {
    const Values k = stochastic(high, low, close, static_cast<int>(window), 1, 1).k;
    for (std::size_t t = window - 1; t < close.size(); ++t) {
      const auto first = static_cast<std::ptrdiff_t>(t + 1 - window);
      const auto end = static_cast<std::ptrdiff_t>(t + 1);
      const double highest = *std::max_element(high.begin() + first, high.begin() + end);
      const double lowest = *std::min_element(low.begin() + first, low.begin() + end);
      ASSERT_EQ(k[t], 100 * ((close[t] - lowest) / (highest - lowest))) << window << " at " << t;
    }
  }
}

// ---- Faults ----

template <typename Call>
std::string fault(Call call) {
  try {
    call();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(Features, TellWhatIsWrongWithTheirParameters) {
  const Values close{1, 2, 3};
  EXPECT_EQ(fault([&] { sma(close, 0); }), "sma: bars: expected a whole number from 1 to 1000000, got 0");
  EXPECT_EQ(fault([&] { rsi(close, 1'000'001); }), "rsi: bars: expected a whole number from 1 to 1000000, got 1000001");
  EXPECT_EQ(fault([&] { macd(close, 5, 5, 1); }), "macd: fast: expected a number below slow, 5, got 5");
  EXPECT_EQ(fault([&] { macd(close, -1, 5, 1); }), "macd: fast: expected a whole number from 1 to 1000000, got -1");
  EXPECT_EQ(fault([&] { bollinger(close, 2, kNone); }),
            "bollinger: deviations: expected a number above 0, up to 1000, got nan");
  EXPECT_EQ(fault([&] { stochastic(close, close, close, 5, 3, 0); }),
            "stochastic: d_bars: expected a whole number from 1 to 1000000, got 0");
  EXPECT_EQ(fault([&] { atr(close, Values{1}, close, 2); }),
            "atr: low: expected 3 numbers, as the column before has, got 1");
  EXPECT_EQ(fault([&] { obv(close, Values{}); }), "obv: volume: expected 3 numbers, as the column before has, got 0");
  EXPECT_THAT(fault([&] { vwap(close, close, close, Values{1}, 2); }), ::testing::StartsWith("vwap: volume: "));
  EXPECT_THAT(fault([&] { log_range(close, Values{1}); }), ::testing::StartsWith("log_range: low: "));
  EXPECT_THAT(fault([&] { log_close_open(close, Values{1}); }), ::testing::StartsWith("log_close_open: close: "));
}

}  // namespace
}  // namespace torchfeed::datasets
