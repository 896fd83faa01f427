// Costs of the loader itself, a batch: windows of 50 bars with 5 features, 32 a batch, gathered from a table in memory.
//   build/bin/loader_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <torchfeed/plugin/data_loader.h>

#include <torch/data/datasets/base.h>
#include <torch/data/samplers/sequential.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

namespace feed = torchfeed;
using Sampler = torch::data::samplers::SequentialSampler;

constexpr std::int64_t kBatch = 32;
constexpr std::int64_t kLength = 50;
constexpr std::int64_t kFeatures = 5;
constexpr std::int64_t kRows = 100'000;
constexpr std::size_t kSamples = static_cast<std::size_t>(kRows - kLength) / kBatch * kBatch;

void gather(const float* table, const std::size_t* indices, std::size_t count, float* windows) {
  constexpr std::size_t kWindow = kLength * kFeatures;
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(windows + i * kWindow, table + indices[i] * kFeatures, kWindow * sizeof(float));
  }
}

class Windows : public torch::data::datasets::BatchDataset<Windows, at::Tensor, std::vector<std::size_t>> {
 public:
  at::Tensor get_batch(std::vector<std::size_t> indices) override {
    auto batch = feed::empty_batch({static_cast<std::int64_t>(indices.size()), kLength, kFeatures});
    gather(table_.data_ptr<float>(), indices.data(), indices.size(), batch.data_ptr<float>());
    return batch;
  }
  torch::optional<std::size_t> size() const override { return kSamples; }

 private:
  at::Tensor table_ = at::rand({kRows, kFeatures});
};

/// The limit: the same bytes into one buffer, no loader.
void memcpy_gather(benchmark::State& state) {
  const at::Tensor table = at::rand({kRows, kFeatures});
  const at::Tensor batch = at::empty({kBatch, kLength, kFeatures});
  std::vector<std::size_t> indices(kBatch);
  std::size_t next = 0;
  for (auto _ : state) {
    for (auto& index : indices) {
      index = next++ % kSamples;
    }
    gather(table.data_ptr<float>(), indices.data(), indices.size(), batch.data_ptr<float>());
    benchmark::ClobberMemory();
  }
}
BENCHMARK(memcpy_gather);

/// Batches at the consumer, epoch after epoch with the same workers; 0 workers is inline. Wall time, as workers'
/// counts.
void windows_batch(benchmark::State& state) {
  auto loader = feed::make_data_loader<Sampler>(
      Windows(), feed::DataLoaderOptions(kBatch).num_workers(state.range(0)).prefetch_factor(8));
  auto iterator = loader->begin();
  for (auto _ : state) {
    benchmark::DoNotOptimize((*iterator).data_ptr());
    ++iterator;
    if (iterator == loader->end()) {
      iterator = loader->begin();
    }
  }
  state.counters["waiting"] = loader->stats().wait_seconds;
}
BENCHMARK(windows_batch)->Arg(0)->Arg(1)->Arg(2)->UseRealTime();

/// From make_data_loader to the first batch.
void first_batch(benchmark::State& state) {
  const Windows dataset;
  for (auto _ : state) {
    auto loader = feed::make_data_loader<Sampler>(dataset, feed::DataLoaderOptions(kBatch).num_workers(state.range(0)));
    benchmark::DoNotOptimize((*loader->begin()).data_ptr());
    state.PauseTiming();
    loader.reset();
    state.ResumeTiming();
  }
}
BENCHMARK(first_batch)->Arg(0)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

/// An epoch of one batch, with persistent workers.
void epoch_turnaround(benchmark::State& state) {
  auto loader = feed::make_data_loader<Sampler>(Windows(), feed::DataLoaderOptions(kBatch).num_workers(state.range(0)));
  for (auto _ : state) {
    benchmark::DoNotOptimize((*loader->begin()).data_ptr());
  }
}
BENCHMARK(epoch_turnaround)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
