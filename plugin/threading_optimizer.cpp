#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/free_memory.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading/planner.h>
#include <torchfeed/plugin/threading/topology.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <cstdio>
#include <utility>

namespace torchfeed {
namespace {

using threading::kMaxThreads;

/// As the loader's own options have it.
constexpr int kMostWorkers = 1024;

void check_count(const char* where, const char* name, int count, int least) {
  TORCH_CHECK(count >= least && count <= kMaxThreads, where, ": expected ", name, " from ", least, " to ", kMaxThreads,
              ", got ", count);
}

std::uint64_t check_size(const char* name, std::int64_t value) {
  TORCH_CHECK(value >= 0, "data_loader_config: expected ", name, " of at least 0 (unknown), got ", value);
  return static_cast<std::uint64_t>(value);
}

/// This machine, as it is now.
threading::PlanInputs read_inputs(const ThreadingOptions& options, const Workload& workload) {
  TORCH_CHECK(workload.dataloader >= -1 && workload.dataloader <= kMostWorkers,
              "Workload: expected dataloader from 0 to ", kMostWorkers, " or -1 (unknown), got ", workload.dataloader);
  threading::PlanInputs inputs;
  inputs.topology = threading::load_topology();
  inputs.quota = threading::read_cpu_quota();
  inputs.memory = threading::read_free_memory();
  inputs.variables = threading::read_thread_variables();
  inputs.blas = threading::blas_library();
  inputs.workload = workload;
  inputs.intra_op = options.intra_op;
  inputs.inter_op = options.inter_op;
  inputs.pin = options.pin;
  return inputs;
}

void set_intra_op(ThreadPlan& plan) {
  const int wanted = plan.intra_op;
  std::string problem;
  try {
    at::set_num_threads(wanted);
  } catch (const c10::Error& error) {
    problem = error.what_without_backtrace();
  }
  plan.intra_op = at::get_num_threads();
  if (plan.intra_op != wanted)
    plan.reasons.push_back("intra_op stays " + std::to_string(plan.intra_op) + ", not " + std::to_string(wanted) +
                           (problem.empty() ? ": ATen kept its number" : ": " + problem));
}

void set_inter_op(ThreadPlan& plan) {
  const int wanted = plan.inter_op;
  try {
    at::set_num_interop_threads(wanted);
  } catch (const c10::Error&) {
    // Read back below: the number may be the one that is wanted.
  }
  plan.inter_op = at::get_num_interop_threads();
  if (plan.inter_op != wanted)
    plan.reasons.push_back("inter_op stays " + std::to_string(plan.inter_op) + ", not " + std::to_string(wanted) +
                           ": LibTorch sizes this pool once, before its first use");
}

void set_blas(ThreadPlan& plan) {
  const int wanted = plan.blas;
  if (wanted == 0) return;
  threading::set_blas_num_threads(wanted);
  plan.blas = threading::blas_num_threads().value_or(0);
  if (plan.blas != wanted)
    plan.reasons.push_back("blas stays " + std::to_string(plan.blas) + ", not " + std::to_string(wanted) + ": " +
                           threading::blas_library_name(threading::blas_library()) + " kept its number");
}

}  // namespace

AppliedPlan::AppliedPlan(AppliedPlan&& other) noexcept
    : plan_(std::move(other.plan_)),
      active_(std::exchange(other.active_, false)),
      previous_intra_op_(other.previous_intra_op_),
      previous_blas_(other.previous_blas_) {}

AppliedPlan::~AppliedPlan() {
  try {
    restore();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "torchfeed: the number of threads stays changed: %s\n", error.what());
  }
}

void AppliedPlan::restore() {
  if (!std::exchange(active_, false)) return;
  at::set_num_threads(previous_intra_op_);
  if (previous_blas_) threading::set_blas_num_threads(*previous_blas_);
}

ThreadingOptimizer::ThreadingOptimizer(ThreadingOptions options) : options_(options) {
  check_count("ThreadingOptions", "intra_op", options.intra_op, 0);
  check_count("ThreadingOptions", "inter_op", options.inter_op, 0);
}

ThreadPlan ThreadingOptimizer::plan(const Workload& workload) const {
  return threading::plan_threads(read_inputs(options_, workload));
}

WorkerCounts ThreadingOptimizer::calculate_optimal_workers(const Workload& workload) const {
  const ThreadPlan plan = this->plan(workload);
  return {plan.dataloader, plan.training, plan.preprocessing, plan.inference};
}

DataLoaderConfig ThreadingOptimizer::data_loader_config(std::int64_t dataset_size, std::int64_t batch_size,
                                                        std::int64_t sample_bytes, std::int64_t worker_bytes) const {
  Workload workload;
  workload.dataset_size = check_size("dataset_size", dataset_size);
  workload.batch_size = check_size("batch_size", batch_size);
  workload.sample_bytes = check_size("sample_bytes", sample_bytes);
  workload.worker_bytes = check_size("worker_bytes", worker_bytes);
  return threading::plan_data_loader(read_inputs(options_, workload), at::hasCUDA());
}

AppliedPlan ThreadingOptimizer::apply(const ThreadPlan& plan) const {
  check_count("ThreadPlan", "intra_op", plan.intra_op, 1);
  check_count("ThreadPlan", "inter_op", plan.inter_op, 1);
  check_count("ThreadPlan", "blas", plan.blas, 0);
  AppliedPlan applied;
  applied.previous_intra_op_ = at::get_num_threads();
  applied.previous_blas_ = threading::blas_num_threads();
  applied.plan_ = plan;
  // ATen first: in a build with MKL it sizes MKL too, and the plan's number for BLAS has the last word.
  set_intra_op(applied.plan_);
  set_inter_op(applied.plan_);
  set_blas(applied.plan_);
  const auto spinning = threading::shorten_openmp_spinning(applied.plan_.intra_op);
  applied.plan_.reasons.push_back(
      std::string("idle OpenMP threads ") +
      (spinning.shortened ? "sleep at once instead of spinning: " : "are left as they are: ") + spinning.reason);
  return applied;
}

ThreadPlan optimize_system_for_training(ThreadingOptions options) {
  const ThreadingOptimizer optimizer(options);
  AppliedPlan applied = optimizer.apply(optimizer.plan());
  applied.keep();
  if (options.verbose) std::fputs(applied.plan().explain().c_str(), stderr);
  return applied.plan();
}

}  // namespace torchfeed
