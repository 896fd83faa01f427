#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/threading/free_memory.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>

namespace torchfeed {
namespace {

constexpr std::int64_t kMostWorkers = 1024;
constexpr std::size_t kMostJobs = 16384;
// Workers that kAuto takes at most.
constexpr std::size_t kMostAuto = 32;
constexpr std::size_t kSmallestBudget = std::size_t{1} << 20;

/// Drawn, and not only read: two loaders made one after the other differ.
std::uint64_t draw_seed() {
  const at::Generator generator = at::detail::getDefaultCPUGenerator();
  auto* cpu = static_cast<at::CPUGeneratorImpl*>(generator.unsafeGetGeneratorImpl());
  const std::lock_guard<std::mutex> lock(cpu->mutex_);
  return cpu->random64();
}

/// Half of what machine and cgroup leave, in bytes.
std::size_t default_budget() {
  const auto room = threading::read_free_memory();
  return std::max<std::size_t>(room ? room->bytes / 2 : std::size_t{1} << 30, kSmallestBudget);
}

}  // namespace

DataLoaderOptions::DataLoaderOptions(const torch::data::DataLoaderOptions& options)
    : batch_size_(options.batch_size()),
      num_workers_(static_cast<std::int64_t>(options.workers())),
      in_order_(options.enforce_ordering()),
      drop_last_(options.drop_last()) {
  if (options.max_jobs().has_value()) {
    max_jobs_ = *options.max_jobs();
  }
  if (options.timeout().has_value()) {
    timeout_ = *options.timeout();
  }
}

FullDataLoaderOptions FullDataLoaderOptions::resolve(const DataLoaderOptions& options) {
  TORCH_CHECK(options.batch_size() >= 1, "DataLoaderOptions: batch_size: expected at least 1, got 0");
  TORCH_CHECK(options.num_workers() >= kAuto && options.num_workers() <= kMostWorkers,
              "DataLoaderOptions: num_workers: expected 0 to ", kMostWorkers, " or kAuto (-1), got ",
              options.num_workers());
  TORCH_CHECK(options.prefetch_factor() >= 1, "DataLoaderOptions: prefetch_factor: expected at least 1, got 0");
  TORCH_CHECK(!options.max_jobs() || *options.max_jobs() >= 1,
              "DataLoaderOptions: max_jobs: expected at least 1, got 0");
  TORCH_CHECK(!options.timeout() || options.timeout()->count() > 0,
              "DataLoaderOptions: timeout: expected more than 0 ms, got ", options.timeout()->count(), " ms");
  TORCH_CHECK(!options.shared_memory_budget() || *options.shared_memory_budget() >= kSmallestBudget,
              "DataLoaderOptions: shared_memory_budget: expected at least ", kSmallestBudget, " bytes, got ",
              *options.shared_memory_budget());

  FullDataLoaderOptions full;
  full.batch_size = options.batch_size();
  full.auto_workers = options.num_workers() == kAuto || (options.num_workers() == 0 && options.auto_threading());
  full.workers = options.workers();
  full.worker_mode = options.worker_mode();
  TORCH_CHECK(
      options.prefetch_factor() <= kMostJobs / std::max<std::size_t>(full.workers, full.auto_workers ? kMostAuto : 1) &&
          options.max_jobs().value_or(1) <= kMostJobs,
      "DataLoaderOptions: prefetch_factor * num_workers or max_jobs: expected at most ", kMostJobs,
      " batches ahead, got ", options.max_jobs().value_or(options.prefetch_factor()),
      options.max_jobs() ? "" : " for each worker");
  full.prefetch_factor = options.max_jobs() ? 0 : options.prefetch_factor();
  full.max_jobs = options.max_jobs().value_or(options.prefetch_factor() * full.workers);
  full.persistent_workers = options.persistent_workers();
  full.enforce_ordering = options.in_order();
  full.drop_last = options.drop_last();
  full.timeout = options.timeout();
  full.seed = options.seed() ? *options.seed() : draw_seed();
  full.worker_init_fn = options.worker_init_fn();
  full.max_worker_restarts = std::min(options.max_worker_restarts(), std::size_t{1} << 30);
  full.shared_memory_budget = options.shared_memory_budget().value_or(0);
  full.set_default_budget();
  if (const auto plan = thread_plan_in_force(); plan && full.workers > 0) {
    full.worker_cpus = plan->dataloader_cpus;
  }
  full.pin_memory = options.pin_memory();
  const bool has_workers = full.workers > 0 || full.auto_workers;
  if (full.pin_memory && (!has_workers || full.worker_mode != WorkerMode::kProcess)) {
    TORCH_WARN_ONCE("DataLoaderOptions: pin_memory is for batches of worker processes, others are not pinned");
  }
  full.trace = options.trace();
  return full;
}

void FullDataLoaderOptions::set_default_budget() {
  if (shared_memory_budget == 0 && workers > 0 && worker_mode == WorkerMode::kProcess) {
    shared_memory_budget = default_budget();
  }
}

void FullDataLoaderOptions::plan_workers(double computing) {
  const auto in_force = thread_plan_in_force();
  const ThreadPlan plan = in_force ? *in_force : ThreadingOptimizer().plan();
  worker_cpus = plan.dataloader_cpus;
  // Workers that have cores of their own compute on no others.
  const int cores = plan.dataloader_cpus.empty() ? plan.preprocessing : plan.dataloader;
  const double fit = std::round(cores / std::max(computing, 1e-3));  // a little waiting makes no room
  workers = static_cast<std::size_t>(std::clamp<double>(fit, 0, std::min<double>(plan.dataloader_limit, kMostAuto)));
  if (prefetch_factor > 0) {
    max_jobs = prefetch_factor * workers;
  }
  set_default_budget();
}

}  // namespace torchfeed
