// What parallel_map gains, and what it costs an item.
//   build/bin/parallel_map_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// Each speed-up is the time of one worker (the calling thread) by that of all of them, one after the other in the same
// round, so that what else the machine does hits both alike.
#include <torchfeed/plugin/parallel_map.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ranges>
#include <thread>

namespace {

namespace feed = torchfeed;
using Clock = std::chrono::steady_clock;

void multiply(std::int64_t steps) {
  std::uint64_t x = 1;
  for (std::int64_t i = 0; i < steps; ++i) {
    benchmark::DoNotOptimize(x = x * 6364136223846793005U + 1);
  }
}

/// Steps that take a millisecond on a core that does nothing else: the fastest of many, so that waiting for a core does
/// not count.
std::int64_t steps_of_a_millisecond() {
  constexpr std::int64_t kSteps = 100'000;
  auto fastest = Clock::duration::max();
  for (int i = 0; i < 200; ++i) {
    const auto begin = Clock::now();
    multiply(kSteps);
    fastest = std::min(fastest, Clock::now() - begin);
  }
  return static_cast<std::int64_t>(static_cast<double>(kSteps) * 1e-3 / std::chrono::duration<double>(fastest).count());
}

/// The same work each time, whoever does it: cores that slow each other down, and cold caches, show.
void compute(std::int64_t /*item*/) {
  static const std::int64_t steps = steps_of_a_millisecond();
  multiply(steps);
}

void wait(std::int64_t /*item*/) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }

double seconds(void (*fn)(std::int64_t), std::int64_t items, const feed::ParallelOptions& options) {
  const auto begin = Clock::now();
  feed::parallel_map(fn, std::views::iota(std::int64_t{0}, items), options);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The whole call: workers are started and ended in it.
void speed_up(benchmark::State& state, void (*fn)(std::int64_t), std::int64_t items, feed::ParallelOptions options) {
  fn(0);  // calibrates itself once, before workers are forked
  double alone = 0;
  double together = 0;
  for (auto _ : state) {
    alone += seconds(fn, items, {.max_workers = 1});
    const double parallel = seconds(fn, items, options);
    state.SetIterationTime(parallel);
    together += parallel;
  }
  state.counters["speed_up"] = alone / together;
}

BENCHMARK_CAPTURE(speed_up, compute_2_threads, compute, 1000, {.max_workers = 2})->UseManualTime()->Iterations(1);
BENCHMARK_CAPTURE(speed_up, compute_2_processes, compute, 1000, {.max_workers = 2, .use_processes = true})
    ->UseManualTime()
    ->Iterations(1);
BENCHMARK_CAPTURE(speed_up, wait_16_threads, wait, 1600, {.max_workers = 16})->UseManualTime()->Iterations(1);

/// Nearly nothing to do: the time is what an item costs, workers' start included.
void overhead(benchmark::State& state, bool processes, std::int64_t workers) {
  constexpr std::int64_t kItems = 1'000'000;
  for (auto _ : state) {
    auto results = feed::parallel_map([](std::int64_t item) { return static_cast<double>(item); },
                                      std::views::iota(std::int64_t{0}, kItems),
                                      {.max_workers = workers, .use_processes = processes});
    benchmark::DoNotOptimize(results.data());
  }
  state.counters["an_item"] =
      benchmark::Counter(kItems, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(overhead, here, false, 1)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(overhead, threads_2, false, 2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(overhead, processes_2, true, 2)->UseRealTime()->Unit(benchmark::kMillisecond);

/// From the call to its end with two items: workers' start and end.
void two_items(benchmark::State& state, bool processes) {
  for (auto _ : state) {
    feed::parallel_map([](std::int64_t) {}, std::views::iota(std::int64_t{0}, std::int64_t{2}),
                       {.max_workers = 2, .use_processes = processes});
  }
}
BENCHMARK_CAPTURE(two_items, threads_2, false)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(two_items, processes_2, true)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
