// Costs of the loader itself, a batch: windows of 50 bars with 5 features, 32 a batch, gathered from a table in memory.
//   build/bin/loader_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <torchfeed/plugin/data_loader.h>

#include <torch/data/datasets/base.h>
#include <torch/data/samplers/sequential.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>

#include <benchmark/benchmark.h>

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
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

/// Batches of so many bytes that are written once.
class Filled : public torch::data::datasets::BatchDataset<Filled, at::Tensor, std::vector<std::size_t>> {
 public:
  explicit Filled(std::int64_t bytes) : bytes_(bytes) {}
  at::Tensor get_batch(std::vector<std::size_t> /*indices*/) override {
    return feed::empty_batch({bytes_}, at::kByte).fill_(1);
  }
  torch::optional<std::size_t> size() const override { return std::size_t{1} << 40; }

 private:
  std::int64_t bytes_;
};

/// The same with kAuto, whose first batch the loop makes: "beyond_ms" is what it takes longer than without workers,
/// both in turn, as a large batch's time is mostly that of new memory.
void first_batch_with_auto(benchmark::State& state) {
  const auto first = [bytes = state.range(0)](int workers) {
    const auto begin = std::chrono::steady_clock::now();
    auto loader = feed::make_data_loader<Sampler>(Filled(bytes), feed::DataLoaderOptions(kBatch).num_workers(workers));
    benchmark::DoNotOptimize((*loader->begin()).data_ptr());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::vector<double> beyond;
  for (auto _ : state) {
    const bool auto_last = beyond.size() % 2 == 0;
    const double one = first(auto_last ? 0 : feed::kAuto);
    const double other = first(auto_last ? feed::kAuto : 0);
    beyond.push_back(auto_last ? other - one : one - other);
    state.SetIterationTime(auto_last ? other : one);
  }
  std::nth_element(beyond.begin(), beyond.begin() + static_cast<std::ptrdiff_t>(beyond.size() / 2), beyond.end());
  state.counters["beyond_ms"] = 1e3 * beyond[beyond.size() / 2];
}
BENCHMARK(first_batch_with_auto)
    ->Arg(32'000)
    ->Arg(32 * 3 * 224 * 224 * 4)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// An epoch of one batch, with persistent workers.
void epoch_turnaround(benchmark::State& state) {
  auto loader = feed::make_data_loader<Sampler>(Windows(), feed::DataLoaderOptions(kBatch).num_workers(state.range(0)));
  for (auto _ : state) {
    benchmark::DoNotOptimize((*loader->begin()).data_ptr());
  }
}
BENCHMARK(epoch_turnaround)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);

/// The same with workers that end with each epoch.
void epoch_turnaround_without_persistent_workers(benchmark::State& state) {
  auto loader = feed::make_data_loader<Sampler>(
      Windows(), feed::DataLoaderOptions(kBatch).num_workers(state.range(0)).persistent_workers(false));
  for (auto _ : state) {
    benchmark::DoNotOptimize((*loader->begin()).data_ptr());
  }
}
BENCHMARK(epoch_turnaround_without_persistent_workers)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);

/// The trainer's own time a batch (the CPU column), whatever the batch's size: workers only take memory, so that they
/// keep ahead.
class Untouched : public torch::data::datasets::BatchDataset<Untouched, at::Tensor, std::vector<std::size_t>> {
 public:
  explicit Untouched(std::int64_t bytes) : bytes_(bytes) {}
  at::Tensor get_batch(std::vector<std::size_t> /*indices*/) override { return feed::empty_batch({bytes_}, at::kByte); }
  torch::optional<std::size_t> size() const override { return std::size_t{1} << 40; }

 private:
  std::int64_t bytes_;
};

void consumer_cost(benchmark::State& state) {
  auto loader = feed::make_data_loader<Sampler>(Untouched(state.range(0)),
                                                feed::DataLoaderOptions(kBatch).num_workers(1).prefetch_factor(8));
  auto iterator = loader->begin();
  for (auto _ : state) {
    benchmark::DoNotOptimize((*iterator).data_ptr());
    ++iterator;
  }
}
BENCHMARK(consumer_cost)->RangeMultiplier(16)->Range(std::int64_t{4} << 10, std::int64_t{32} << 20)->UseRealTime();

/// What one copy of such a batch takes, from memory that is not in the caches if it is large.
void memcpy_batch(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const std::vector<char> from(bytes, 'x');
  std::vector<char> to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
}
BENCHMARK(memcpy_batch)->RangeMultiplier(16)->Range(std::int64_t{4} << 10, std::int64_t{32} << 20);

/// From make_data_loader to the first batch, beside 1 GB of heap that is in use.
void first_batch_with_heap(benchmark::State& state) {
  const std::vector<char> heap(std::size_t{1} << 30, 'x');
  benchmark::DoNotOptimize(heap.data());
  first_batch(state);
}
BENCHMARK(first_batch_with_heap)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

/// Bytes of a process's proportional set (proc(5), smaps) that are not batches.
double proportional_set(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps");
  double kibibytes = 0;
  bool counted = true;
  for (std::string line; std::getline(file, line);) {
    if (line.find('-') < line.find(' ')) {
      counted = line.find("memfd:torchfeed") == std::string::npos;
    } else if (counted && line.rfind("Pss:", 0) == 0) {
      kibibytes += std::stod(line.substr(4));
    }
  }
  return kibibytes * 1024;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  return {std::istream_iterator<pid_t>(file), {}};
}

std::size_t descriptors() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

/// What fork server and workers add to the memory of the trainer, which has 1 GB of data, and to its descriptors, over
/// 100,000 batches. Not a time.
void memory_of_workers(benchmark::State& state) {
  const std::vector<char> heap(std::size_t{1} << 30, 'x');
  benchmark::DoNotOptimize(heap.data());
  const Windows dataset;
  const auto workers = static_cast<int>(state.range(0));
  for (auto _ : state) {
    const double before = proportional_set(::getpid());
    const std::size_t descriptors_before = descriptors();
    auto loader = feed::make_data_loader<Sampler>(dataset, feed::DataLoaderOptions(kBatch).num_workers(workers));
    std::size_t descriptors_at_first = 0;
    for (int batches = 0; batches < 100'000;) {
      for (auto& batch : *loader) {
        benchmark::DoNotOptimize(batch.data_ptr());
        descriptors_at_first = batches == 0 ? descriptors() : descriptors_at_first;
        ++batches;
      }
    }
    double after = proportional_set(::getpid());
    for (const pid_t server : children_of(::getpid())) {
      after += proportional_set(server);
      for (const pid_t worker : children_of(server)) {
        after += proportional_set(worker);
      }
    }
    state.counters["MB_a_worker"] = (after - before) / 1e6 / workers;
    state.counters["descriptors"] = static_cast<double>(descriptors() - descriptors_before);
    state.counters["more_after_100k"] = static_cast<double>(descriptors() - descriptors_at_first);
  }
}
BENCHMARK(memory_of_workers)->Arg(1)->Arg(2)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
