// What an index costs, and what a block shuffle is worth.
//   build/bin/samplers_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <torchfeed/samplers/block_shuffle_sampler.h>
#include <torchfeed/samplers/distributed_shuffle_sampler.h>
#include <torchfeed/samplers/index_range.h>
#include <torchfeed/samplers/shuffle_quality.h>
#include <torchfeed/samplers/shuffle_sampler.h>
#include <torchfeed/samplers/subset_sampler.h>
#include <torchfeed/samplers/weighted_random_sampler.h>

#include <torch/data/samplers/random.h>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

namespace samplers = torchfeed::samplers;

constexpr std::int64_t kMillion = 1'000'000;
constexpr std::int64_t kTrillion = 1'000'000'000'000;

/// Batch after batch, epoch after epoch; a batch holds range(0) indices. Counts time an index.
void next_batch(benchmark::State& state, torch::data::samplers::Sampler<>& sampler) {
  const auto batch_size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    auto batch = sampler.next(batch_size);
    if (!batch) {
      sampler.reset(torch::optional<std::size_t>());
      batch = sampler.next(batch_size);
    }
    benchmark::DoNotOptimize(batch->data());
  }
  state.counters["index"] = benchmark::Counter(
      static_cast<double>(batch_size), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

/// range(1): the size.
void shuffle(benchmark::State& state) {
  samplers::ShuffleSampler sampler(static_cast<std::size_t>(state.range(1)), 1);
  next_batch(state, sampler);
}
BENCHMARK(shuffle)->ArgsProduct({{32, 1024}, {1000, kMillion, kTrillion, std::int64_t{1} << 62}});

/// torch::data's, which stores its order, and makes it anew with each epoch: its time is in here.
void torch_random(benchmark::State& state) {
  torch::data::samplers::RandomSampler sampler(state.range(1));
  next_batch(state, sampler);
}
BENCHMARK(torch_random)->ArgsProduct({{32, 1024}, {1000, kMillion}});

void distributed_shuffle(benchmark::State& state) {
  samplers::DistributedShuffleSampler sampler(static_cast<std::size_t>(state.range(1)), 8, 3);
  next_batch(state, sampler);
}
BENCHMARK(distributed_shuffle)->ArgsProduct({{32, 1024}, {kMillion, kTrillion}});

void block_shuffle(benchmark::State& state) {
  samplers::BlockShuffleSampler sampler(static_cast<std::size_t>(state.range(1)), {.seed = 1});
  next_batch(state, sampler);
}
BENCHMARK(block_shuffle)->ArgsProduct({{32, 1024}, {kMillion, kTrillion}});

void weighted(benchmark::State& state) {
  const std::vector<double> weights(static_cast<std::size_t>(state.range(1)), 0.5);
  samplers::WeightedRandomSampler sampler(weights, {.num_samples = kTrillion, .seed = 1});
  next_batch(state, sampler);
}
BENCHMARK(weighted)->ArgsProduct({{32, 1024}, {1000, kMillion}});

/// All weights once: an epoch's time is in sorting what was drawn.
void weighted_without_replacement(benchmark::State& state) {
  const std::vector<double> weights(static_cast<std::size_t>(state.range(1)), 0.5);
  samplers::WeightedRandomSampler sampler(weights, {.replacement = false, .seed = 1});
  next_batch(state, sampler);
}
BENCHMARK(weighted_without_replacement)->ArgsProduct({{1024}, {1000, kMillion}});

void shuffled_range(benchmark::State& state) {
  samplers::SubsetSampler sampler(samplers::IndexRange{100, 100 + static_cast<std::size_t>(state.range(1))},
                                  {.shuffle = true, .seed = 1});
  next_batch(state, sampler);
}
BENCHMARK(shuffled_range)->ArgsProduct({{32, 1024}, {kMillion}});

/// To any place of 10^12 indices, and the batch there.
void seek(benchmark::State& state) {
  samplers::ShuffleSampler sampler(kTrillion, 1);
  std::size_t position = 0;
  for (auto _ : state) {
    position = (position + 123'456'789'123) % (kTrillion - 32);
    sampler.seek(position);
    benchmark::DoNotOptimize(sampler.next(32)->data());
  }
}
BENCHMARK(seek);

/// A new epoch of 10^12 indices, and its first batch.
void epoch(benchmark::State& state) {
  samplers::ShuffleSampler sampler(kTrillion, 1);
  for (auto _ : state) {
    sampler.reset();
    benchmark::DoNotOptimize(sampler.next(32)->data());
  }
}
BENCHMARK(epoch);

/// How good a shuffle of 4 million indices in blocks of 4096 is, by blocks in a window: see ShuffleQuality.
void block_shuffle_quality(benchmark::State& state) {
  constexpr std::size_t kSize = std::size_t{4} << 20;
  samplers::ShuffleQuality quality;
  for (auto _ : state) {
    samplers::BlockShuffleSampler sampler(
        kSize, {.block_size = 4096, .window_blocks = static_cast<std::size_t>(state.range(0)), .seed = 1});
    quality = samplers::measure_shuffle_quality(*sampler.next(kSize), 32);
  }
  state.counters["displacement"] = quality.displacement;
  state.counters["serial_correlation"] = quality.serial_correlation;
  state.counters["batch_variance"] = quality.batch_variance;
}
BENCHMARK(block_shuffle_quality)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Arg(1024)->Iterations(1);

}  // namespace

BENCHMARK_MAIN();
