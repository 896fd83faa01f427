#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/features/calendar_indicators.h>
#include <torchfeed/datasets/features/price_indicators.h>
#include <torchfeed/datasets/features/range_indicators.h>

#include <c10/util/Exception.h>

#include <array>
#include <cstddef>
#include <utility>

namespace torchfeed::datasets {
namespace {

using features::BarColumns;
using features::FeatureOf;
using std::span;

template <std::size_t kOutputs>
using Outputs = std::array<std::vector<double>, kOutputs>;

template <typename Indicator>
Outputs<Indicator::kOutputs> run(Indicator indicator, const BarColumns& bars, std::size_t rows) {
  Outputs<Indicator::kOutputs> outputs;
  std::array<double*, Indicator::kOutputs> out;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].resize(rows);
    out[i] = outputs[i].data();
  }
  FeatureOf<Indicator>(std::move(indicator)).push(bars, rows, out);
  return outputs;
}

/// Of an indicator that takes one column.
template <features::Column kColumn = features::kClose, typename Indicator>
auto run_on(Indicator indicator, span<const double> values) {
  BarColumns bars;
  bars.values[kColumn] = values.data();
  return run(std::move(indicator), bars, values.size());
}

template <typename Indicator>
Cycle run_on_times(Indicator indicator, span<const std::int64_t> times) {
  BarColumns bars;
  bars.times = times.data();
  auto [sine, cosine] = run(indicator, bars, times.size());
  return {std::move(sine), std::move(cosine)};
}

void check_length(const char* feature, const char* column, std::size_t expected, span<const double> values) {
  TORCH_CHECK_VALUE(values.size() == expected, feature, ": ", column, ": expected ", expected,
                    " numbers, as the column before has, got ", values.size());
}

/// High, low and close, after their lengths have been checked.
BarColumns ranges(const char* feature, span<const double> high, span<const double> low, span<const double> close) {
  check_length(feature, "low", high.size(), low);
  check_length(feature, "close", high.size(), close);
  BarColumns bars;
  bars.values[features::kHigh] = high.data();
  bars.values[features::kLow] = low.data();
  bars.values[features::kClose] = close.data();
  return bars;
}

}  // namespace

std::vector<double> simple_return(span<const double> close, int bars) {
  return std::move(run_on(features::SimpleReturn(bars), close)[0]);
}

std::vector<double> log_return(span<const double> close, int bars) {
  return std::move(run_on(features::LogReturn(bars), close)[0]);
}

std::vector<double> log_range(span<const double> high, span<const double> low) {
  check_length("log_range", "low", high.size(), low);
  BarColumns bars;
  bars.values[features::kHigh] = high.data();
  bars.values[features::kLow] = low.data();
  return std::move(run(features::LogRange(), bars, high.size())[0]);
}

std::vector<double> log_volume_change(span<const double> volume) {
  return std::move(run_on<features::kVolume>(features::LogVolumeChange(), volume)[0]);
}

std::vector<double> log_close_open(span<const double> open, span<const double> close) {
  check_length("log_close_open", "close", open.size(), close);
  BarColumns bars;
  bars.values[features::kOpen] = open.data();
  bars.values[features::kClose] = close.data();
  return std::move(run(features::LogCloseOpen(), bars, open.size())[0]);
}

std::vector<double> sma(span<const double> values, int bars) {
  return std::move(run_on(features::SimpleAverage(bars), values)[0]);
}

std::vector<double> ema(span<const double> values, int bars) {
  return std::move(run_on(features::ExponentialAverage(bars), values)[0]);
}

Macd macd(span<const double> close, int fast, int slow, int signal) {
  auto [line, signals, histogram] = run_on(features::AverageConvergence(fast, slow, signal), close);
  return {std::move(line), std::move(signals), std::move(histogram)};
}

std::vector<double> vwap(span<const double> high, span<const double> low, span<const double> close,
                         span<const double> volume, int bars) {
  BarColumns columns = ranges("vwap", high, low, close);
  check_length("vwap", "volume", high.size(), volume);
  columns.values[features::kVolume] = volume.data();
  return std::move(run(features::VolumeWeightedPrice(bars), columns, high.size())[0]);
}

std::vector<double> obv(span<const double> close, span<const double> volume) {
  check_length("obv", "volume", close.size(), volume);
  BarColumns bars;
  bars.values[features::kClose] = close.data();
  bars.values[features::kVolume] = volume.data();
  return std::move(run(features::OnBalanceVolume(), bars, close.size())[0]);
}

std::vector<double> rsi(span<const double> close, int bars) {
  return std::move(run_on(features::RelativeStrength(bars), close)[0]);
}

Stochastic stochastic(span<const double> high, span<const double> low, span<const double> close, int bars, int k_bars,
                      int d_bars) {
  const BarColumns columns = ranges("stochastic", high, low, close);
  auto [k, d] = run(features::StochasticOscillator(bars, k_bars, d_bars), columns, high.size());
  return {std::move(k), std::move(d)};
}

std::vector<double> zscore(span<const double> values, int bars) {
  return std::move(run_on(features::StandardScore(bars), values)[0]);
}

Bollinger bollinger(span<const double> close, int bars, double deviations) {
  auto [upper, middle, lower, bandwidth, percent_b] = run_on(features::BollingerBands(bars, deviations), close);
  return {std::move(upper), std::move(middle), std::move(lower), std::move(bandwidth), std::move(percent_b)};
}

std::vector<double> atr(span<const double> high, span<const double> low, span<const double> close, int bars) {
  const BarColumns columns = ranges("atr", high, low, close);
  return std::move(run(features::AverageTrueRange(bars), columns, high.size())[0]);
}

std::vector<double> volatility(span<const double> close, int bars) {
  return std::move(run_on(features::Volatility(bars), close)[0]);
}

Cycle day_of_week(span<const std::int64_t> times) { return run_on_times(features::DayOfWeek(), times); }

Cycle month(span<const std::int64_t> times) { return run_on_times(features::MonthOfYear(), times); }

Cycle hour_of_day(span<const std::int64_t> times) { return run_on_times(features::HourOfDay(), times); }

}  // namespace torchfeed::datasets
