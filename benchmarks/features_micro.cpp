// Values of features a second of CPU time, over columns and bar by bar. A value is one number of one bar. The time is
// the wall's, so that the lines of 1 and 2 threads show what a second core brings.
//   features_micro --benchmark_filter=/10000000/
#include <torchfeed/datasets/streaming_features.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace torchfeed::datasets {
namespace {

const std::vector<std::string>& all_features() {
  static const std::vector<std::string> kNames{
      "return",      "log_return", "log_range",        "log_volume_change", "log_close_open", "sma_20",
      "sma_250",     "ema_20",     "rsi_14",           "macd_12_26_9",      "bollinger_20_2", "atr_14",
      "obv",         "vwap_20",    "stochastic_5_3_3", "stochastic_14_1_3", "volatility_20",  "zscore_20",
      "day_of_week", "month",      "hour_of_day"};
  return kNames;
}

/// Minutes of a price that walks at random.
const ColumnTable& bars_of(std::size_t count) {
  static ColumnTable bars;
  if (bars.size() == count) return bars;
  bars = {};
  bars.names = {"open", "high", "low", "close", "volume"};
  bars.values.assign(5, std::vector<double>(count));
  bars.times.resize(count);
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> uniform(-1e-3, 1e-3);
  double price = 100;
  for (std::size_t t = 0; t < count; ++t) {
    const double open = price;
    price *= 1 + uniform(random) - 1e-6 * (price - 100);
    bars.times[t] = 946'684'800'000'000'000 + static_cast<std::int64_t>(t) * 60'000'000'000;
    bars.values[0][t] = open;
    bars.values[1][t] = std::max(open, price) * (1 + std::abs(uniform(random)));
    bars.values[2][t] = std::min(open, price) * (1 - std::abs(uniform(random)));
    bars.values[3][t] = price;
    bars.values[4][t] = 1e6 * (1 + 500 * uniform(random));
  }
  return bars;
}

void count_values(benchmark::State& state, std::size_t values) {
  state.counters["values/s"] =
      benchmark::Counter(static_cast<double>(values), benchmark::Counter::kIsIterationInvariantRate);
}

void over_columns(benchmark::State& state, const std::vector<std::string>& names) {
  const ColumnTable& bars = bars_of(static_cast<std::size_t>(state.range(0)));
  const auto threads = static_cast<int>(state.range(1));
  std::size_t columns = 0;
  for (auto _ : state) {
    const ColumnTable table = compute_features(bars, names, threads);
    benchmark::DoNotOptimize(table.values.data());
    columns = table.values.size();
  }
  count_values(state, columns * bars.size());
}

void bar_by_bar(benchmark::State& state) {
  const ColumnTable& bars = bars_of(static_cast<std::size_t>(state.range(0)));
  StreamingFeatures features(all_features());
  std::vector<double> out(features.columns().size());
  std::int64_t time = 0;
  for (auto _ : state) {
    for (std::size_t t = 0; t < bars.size(); ++t) {
      features.push(
          {++time, bars.values[0][t], bars.values[1][t], bars.values[2][t], bars.values[3][t], bars.values[4][t]}, out);
      benchmark::DoNotOptimize(out.data());
    }
  }
  count_values(state, out.size() * bars.size());
}

void register_all() {
  for (const std::int64_t bars : {10'000, 10'000'000}) {
    const auto with = [&](benchmark::internal::Benchmark* registered, std::vector<std::int64_t> arguments) {
      arguments.insert(arguments.begin(), bars);
      registered->Args(arguments)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
    };
    for (const auto& name : all_features()) {
      with(benchmark::RegisterBenchmark(name.c_str(), over_columns, std::vector<std::string>{name}), {1});
    }
    for (const std::int64_t threads : {1, 2}) {
      with(benchmark::RegisterBenchmark("all_features", over_columns, all_features()), {threads});
    }
    with(benchmark::RegisterBenchmark("all_features_bar_by_bar", bar_by_bar), {1});
  }
}

}  // namespace
}  // namespace torchfeed::datasets

int main(int argc, char** argv) {
  torchfeed::datasets::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
