// Stack beside torch::data's: samples to a batch, as new tensors and in a worker's slot.
//   build/bin/collate_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// torch::data's batch has to be copied into the slot behind it, which is not in its time. The samples are there
// already. bytes_per_second counts the batch once.
#include <torchfeed/plugin/stack.h>

#include "support/worker_slot.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <torch/data/transforms/stack.h>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace {

using torch::data::Example;
using Examples = std::vector<Example<>>;
using Sizes = std::vector<std::int64_t>;

Examples examples_of(const Sizes& sizes) {
  Examples examples;
  for (int i = 0; i < 32; ++i) examples.emplace_back(at::randn(sizes), at::randn({}));
  return examples;
}

/// 32 samples of `sizes` and a number each.
template <typename Collate>
void collate(benchmark::State& state, Collate stack, bool in_slot, const Sizes& sizes) {
  const Examples examples = examples_of(sizes);
  torchfeed::benchmarks::WorkerSlot slot;
  const auto make = [&] { return stack.apply_batch(examples); };
  std::int64_t bytes = 0;
  for (auto _ : state) {
    const Example<> batch = in_slot ? slot.run(make) : make();
    benchmark::DoNotOptimize(batch.data.data_ptr());
    bytes = static_cast<std::int64_t>(batch.data.nbytes() + batch.target.nbytes());
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

const Sizes kWindow{50, 5};
const Sizes kImage{3, 224, 224};
using Stack = torchfeed::Stack<>;
using TorchStack = torch::data::transforms::Stack<>;

BENCHMARK_CAPTURE(collate, windows_new, Stack(), false, kWindow);
BENCHMARK_CAPTURE(collate, windows_in_slot, Stack(), true, kWindow);
BENCHMARK_CAPTURE(collate, windows_torch_data, TorchStack(), false, kWindow);
BENCHMARK_CAPTURE(collate, images_new, Stack(), false, kImage);
BENCHMARK_CAPTURE(collate, images_in_slot, Stack(), true, kImage);
BENCHMARK_CAPTURE(collate, images_torch_data, TorchStack(), false, kImage);

}  // namespace

BENCHMARK_MAIN();
