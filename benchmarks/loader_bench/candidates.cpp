#include "candidates.h"

#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/compare_settings.h>
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/stack.h>

#include <torch/data/dataloader.h>
#include <torch/data/datasets/map.h>
#include <torch/data/samplers/sequential.h>
#include <torch/data/transforms/stack.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace torchfeed::bench {
namespace {

using compare::MeasuredLoader;
using Sequential = torch::data::samplers::SequentialSampler;
using Example = torch::data::TensorExample;

/// The training step.
auto step_of(const Task& task) {
  return [milliseconds = task.step_ms](const Example& /*batch*/) {
    if (milliseconds > 0) {
      compute_for(milliseconds);
    }
  };
}

template <typename Dataset>
std::unique_ptr<MeasuredLoader> torchfeed_loader(const Setting& setting, const Task& task, Dataset dataset) {
  auto options = DataLoaderOptions(task.batch_size)
                     .num_workers(setting.workers)
                     .worker_mode(setting.mode)
                     .in_order(setting.in_order)
                     .prefetch_factor(task.prefetch_factor)
                     .seed(1);
  auto make = [dataset = std::move(dataset), options](std::shared_ptr<std::size_t> left) mutable {
    auto sampler = compare::limited_sampler<Sequential>(dataset, std::move(left));
    return make_data_loader(std::move(dataset), std::move(sampler), options);
  };
  return compare::measured_loader(std::move(make), step_of(task), task.batch_size);
}

template <typename Dataset>
std::unique_ptr<MeasuredLoader> torch_data_loader(const Setting& setting, const Task& task, Dataset dataset) {
  const auto workers = static_cast<std::size_t>(setting.workers);
  auto options = torch::data::DataLoaderOptions(task.batch_size).workers(workers).enforce_ordering(setting.in_order);
  if (workers > 0) {
    options.max_jobs(task.prefetch_factor * workers);
  }
  auto make = [dataset = std::move(dataset), options](std::shared_ptr<std::size_t> left) mutable {
    auto sampler = compare::limited_sampler<Sequential>(dataset, std::move(left));
    return torch::data::make_data_loader(std::move(dataset), std::move(sampler), options);
  };
  return compare::measured_loader(std::move(make), step_of(task), task.batch_size);
}

std::unique_ptr<MeasuredLoader> make_loader(const Setting& setting, const Task& task) {
  const bool ours = setting.library == Library::kTorchfeed;
  if (is_batch_native(task.workload)) {
    Batches batches(task.workload);
    return ours ? torchfeed_loader(setting, task, batches) : torch_data_loader(setting, task, batches);
  }
  Samples samples(task.workload);
  if (task.workload == Workload::kImagesConverter) {
    return torchfeed_loader(setting, task, samples.map(image_converter()));
  }
  return ours ? torchfeed_loader(setting, task, samples.map(Stack<Example>()))
              : torch_data_loader(setting, task, samples.map(torch::data::transforms::Stack<Example>()));
}

}  // namespace

std::string name_of(const Setting& setting) {
  std::string text = setting.library == Library::kTorchfeed ? "torchfeed" : "torch_data";
  if (setting.workers == 0) {
    return text + " inline";
  }
  text += setting.mode == WorkerMode::kProcess ? " process " : " thread ";
  text += setting.workers == kAuto ? "auto" : std::to_string(setting.workers);
  return text + (setting.in_order ? "" : ", out of order");
}

bool has_candidate(const Setting& setting, const Task& task) {
  return setting.library == Library::kTorchfeed || task.workload != Workload::kImagesConverter;
}

compare::Candidate candidate(const Setting& setting, const Task& task, const Options& options) {
  compare::RunPlan plan;
  plan.seconds = options.seconds;
  plan.period = period_of(task.workload, task.batch_size);
  plan.workers = static_cast<std::size_t>(std::max<std::int64_t>(setting.workers, 0));
  plan.workers_are_threads = setting.mode == WorkerMode::kThread;
  if (setting.workers == kAuto) {
    plan.seconds = std::max(plan.seconds, options.auto_seconds);
    plan.least_batches = kLeastAutoBatches;
  }
  return {name_of(setting), [setting, task] { return make_loader(setting, task); }, plan};
}

}  // namespace torchfeed::bench
