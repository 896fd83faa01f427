#include "epoch.h"

#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/stack.h>

#include <torch/data/dataloader.h>
#include <torch/data/datasets/map.h>
#include <torch/data/samplers/sequential.h>
#include <torch/data/transforms/stack.h>

#include <algorithm>
#include <chrono>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Sequential = torch::data::samplers::SequentialSampler;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

/// `make` makes the loader.
template <typename Make>
Epoch run_loader(const Task& task, Make make) {
  const auto begin = Clock::now();
  auto loader = make();
  auto iterator = loader->begin();
  static_cast<void>(*iterator);
  const auto end = loader->end();
  Epoch epoch;
  epoch.first_batch = seconds(Clock::now() - begin);
  std::vector<double> intervals;
  intervals.reserve(task.batches);
  const std::size_t unsettled = std::min(std::max<std::size_t>(50, task.batches / 20), task.batches / 2);
  auto settled = Clock::now();
  auto last = settled;
  for (std::size_t batch = 0;;) {
    if (task.step_ms > 0) {
      compute_for(task.step_ms);
    }
    const auto asked = Clock::now();
    ++iterator;
    const bool more = iterator != end;
    const auto now = Clock::now();
    epoch.waiting += seconds(now - asked);
    intervals.push_back(seconds(now - last));
    last = now;
    if (++batch == unsettled) {
      settled = now;
    }
    if (!more) {
      epoch.settled_batches = batch - unsettled;
      break;
    }
  }
  epoch.settled_seconds = seconds(last - settled);
  epoch.seconds = seconds(last - begin);
  if constexpr (requires { loader->stats(); }) {
    epoch.stats = loader->stats();
  }
  std::sort(intervals.begin(), intervals.end());
  epoch.p50 = intervals[intervals.size() / 2];
  epoch.p99 = intervals[intervals.size() * 99 / 100];
  return epoch;
}

template <typename Dataset>
Epoch run_torchfeed(const Setting& setting, const Task& task, Dataset dataset) {
  const auto options = DataLoaderOptions(task.batch_size)
                           .num_workers(setting.workers)
                           .worker_mode(setting.mode)
                           .prefetch_factor(task.prefetch_factor)
                           .seed(1);
  return run_loader(task, [&] { return make_data_loader<Sequential>(std::move(dataset), options); });
}

template <typename Dataset>
Epoch run_torch_data(const Setting& setting, const Task& task, Dataset dataset) {
  auto options = torch::data::DataLoaderOptions(task.batch_size).workers(static_cast<std::size_t>(setting.workers));
  if (setting.workers > 0) {
    options.max_jobs(task.prefetch_factor * static_cast<std::size_t>(setting.workers));
  }
  return run_loader(task, [&] { return torch::data::make_data_loader<Sequential>(std::move(dataset), options); });
}

}  // namespace

std::string Setting::name() const {
  std::string text = library == Library::kTorchfeed ? "torchfeed" : "torch_data";
  if (library == Library::kTorchfeed && workers != 0) {
    text += mode == WorkerMode::kProcess ? " process" : " thread";
  }
  return text + ' ' + (workers == kAuto ? "auto" : std::to_string(workers));
}

Epoch run_epoch(const Setting& setting, const Task& task) {
  const std::size_t size = task.batches * task.batch_size;
  const bool ours = setting.library == Library::kTorchfeed;
  if (is_batch_native(task.workload)) {
    Batches batches(task.workload, size);
    return ours ? run_torchfeed(setting, task, batches) : run_torch_data(setting, task, batches);
  }
  Samples samples(task.workload, size);
  return ours
             ? run_torchfeed(setting, task, samples.map(Stack<torch::data::TensorExample>()))
             : run_torch_data(setting, task, samples.map(torch::data::transforms::Stack<torch::data::TensorExample>()));
}

}  // namespace torchfeed::bench
