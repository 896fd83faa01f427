#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sched.h>
#include <torchfeed/plugin/rnn/rnn_setting.h>
#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/machine.h>
#include <torchfeed/plugin/threading/plan_setter.h>
#include <torchfeed/plugin/threading/planner.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using threading::kMaxThreads;

/// As the loader's own options have it.
constexpr int kMostWorkers = 1024;

constexpr int kMaxPrimitives = 1 << 20;
constexpr int kMaxCpu = (1 << 20) - 1;

void check_number(const char* where, const char* name, int number, int least, int most) {
  TORCH_CHECK(number >= least && number <= most, where, ": expected ", name, " from ", least, " to ", most, ", got ",
              number);
}

std::uint64_t check_size(const char* name, std::int64_t value) {
  TORCH_CHECK(value >= 0, "data_loader_config: expected ", name, " of at least 0 (unknown), got ", value);
  return static_cast<std::uint64_t>(value);
}

threading::PlanInputs read_inputs(const ThreadingOptions& options, const Workload& workload) {
  TORCH_CHECK(workload.dataloader >= -1 && workload.dataloader <= kMostWorkers,
              "Workload: expected dataloader from 0 to ", kMostWorkers, " or -1 (unknown), got ", workload.dataloader);
  threading::PlanInputs inputs = threading::read_machine();
  if (options.blas_kernels) inputs.blas_kernels = threading::blas_kernels();
  inputs.workload = workload;
  inputs.intra_op = options.intra_op;
  inputs.inter_op = options.inter_op;
  inputs.default_inter_op = static_cast<int>(at::get_num_interop_threads());
  static const int before = at::get_num_threads();  // LibTorch's own, or the program's: before the first plan
  inputs.default_intra_op = before;
  inputs.primitive_cache = options.primitive_cache;
  inputs.tensor_memory = options.tensor_memory;
  inputs.blas_on_openmp = options.blas_on_openmp;
  inputs.onednn_rnn = options.onednn_rnn;
  inputs.pin = options.pin;
  return inputs;
}

void check_options(const ThreadingOptions& options) {
  const char* const where = "ThreadingOptions";
  check_number(where, "intra_op", options.intra_op, 0, kMaxThreads);
  check_number(where, "inter_op", options.inter_op, 0, kMaxThreads);
  check_number(where, "primitive_cache", options.primitive_cache, 0, kMaxPrimitives);
  if (options.nice) check_number(where, "nice", *options.nice, -20, 19);
  if (options.real_time) check_number(where, "real_time.priority", options.real_time->priority, 1, 99);
}

void check_plan(const ThreadPlan& plan) {
  const char* const where = "ThreadPlan";
  check_number(where, "intra_op", plan.intra_op, 1, kMaxThreads);
  check_number(where, "inter_op", plan.inter_op, 1, kMaxThreads);
  check_number(where, "blas", plan.blas, 0, kMaxThreads);
  check_number(where, "dataloader", plan.dataloader, 0, kMostWorkers);
  check_number(where, "dataloader_limit", plan.dataloader_limit, 0, kMostWorkers);
  check_number(where, "preprocessing", plan.preprocessing, 1, kMostWorkers);
  check_number(where, "primitive_cache", plan.primitive_cache, 0, kMaxPrimitives);
  for (const int cpu : plan.trainer_cpus) check_number(where, "trainer_cpus", cpu, 0, kMaxCpu);
  for (const int cpu : plan.dataloader_cpus) check_number(where, "dataloader_cpus", cpu, 0, kMaxCpu);
}

/// oneDNN's number and name of a mode (dnnl_fpmath_mode_t).
std::pair<int, const char*> onednn_mode(FpMath mode) {
  switch (mode) {
    case FpMath::kStrict:
      return {0, "strict"};
    case FpMath::kBf16:
      return {1, "bf16"};
    case FpMath::kF16:
      return {2, "f16"};
    case FpMath::kAny:
      return {3, "any"};
    case FpMath::kTf32:
      return {4, "tf32"};
  }
  TORCH_CHECK(false, "ThreadingOptions: expected one of FpMath's modes, got ", static_cast<int>(mode));
}

/// What lives until the process ends, and may be read while it does.
struct InForce {
  std::mutex mutex;
  /// The last that was applied at the end.
  std::list<ThreadPlan> plans;
  /// What keep() was called for: destroying it could put things back.
  std::vector<threading::PlanSetter::Undo> kept;
};

InForce& in_force() {
  static auto* const value = new InForce;
  return *value;
}

/// Held while settings of the process change: threads take turns.
std::mutex& changing() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

/// Notes the plan as in force, until it is undone.
void note_in_force(const ThreadPlan& plan, threading::PlanSetter::Undo& undo) {
  const std::lock_guard<std::mutex> lock(in_force().mutex);
  in_force().plans.push_back(plan);
  undo.emplace_back([place = std::prev(in_force().plans.end())] {
    const std::lock_guard<std::mutex> erase_lock(in_force().mutex);
    in_force().plans.erase(place);
  });
}

/// Takes over from the plan in force, where that binds threads, which CPUs are the trainer's and what the loader has.
void share_with_loader(ThreadPlan& plan) {
  const auto in_force = thread_plan_in_force();
  if (!in_force || in_force->trainer_cpus.empty()) return;
  plan.trainer_cpus = in_force->trainer_cpus;
  plan.dataloader_cpus = in_force->dataloader_cpus;
  plan.dataloader = in_force->dataloader;
  const int most = std::min(in_force->training, static_cast<int>(in_force->trainer_cpus.size()));
  for (int* threads : {&plan.intra_op, &plan.blas, &plan.training, &plan.inference})
    *threads = std::min(*threads, most);
  plan.reasons.push_back(
      "trainer_cpus, dataloader_cpus and dataloader stay as the plan in force has them, and no more "
      "threads than its " +
      std::to_string(most) + " train");
}

}  // namespace

AppliedPlan::AppliedPlan(AppliedPlan&& other) noexcept
    : plan_(std::move(other.plan_)), undo_(std::exchange(other.undo_, {})), owner_(other.owner_) {}

AppliedPlan::AppliedPlan() : owner_(::getpid()) {}

AppliedPlan::~AppliedPlan() { restore(); }

void AppliedPlan::keep() {
  const std::lock_guard<std::mutex> lock(in_force().mutex);
  in_force().kept.push_back(std::exchange(undo_, {}));
}

void AppliedPlan::restore() {
  if (::getpid() != owner_) {
    undo_.clear();  // a forked child's copy, whose threads are not there
    return;
  }
  const std::lock_guard<std::mutex> lock(changing());
  threading::PlanSetter::put_back(std::exchange(undo_, {}));
}

ThreadingOptimizer::ThreadingOptimizer(ThreadingOptions options) : options_(options) { check_options(options); }

ThreadPlan ThreadingOptimizer::plan(const Workload& workload) const {
  ThreadPlan plan = threading::plan_threads(read_inputs(options_, workload));
  if (!options_.pin) share_with_loader(plan);
  return plan;
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
  check_plan(plan);
  AppliedPlan applied;  // before the lock, as an error has it restored
  const std::lock_guard<std::mutex> lock(changing());
  applied.plan_ = plan;
  threading::PlanSetter setter(applied.plan_, applied.undo_);
  // ATen first: in a build with MKL it sizes MKL too, and the plan's number for BLAS has the last word.
  setter.set_intra_op();
  setter.set_inter_op();
  setter.set_blas();
  setter.set_blas_team();
  setter.set_blas_kernels();
  // Before threads are bound: libgomp compares with the CPUs that it found when it was loaded.
  setter.shorten_spinning();
  setter.set_primitive_cache();
  setter.keep_tensor_memory();
  rnn::set_onednn_rnn(applied.plan_, applied.undo_);
  if (options_.fp_math) {
    const auto [mode, name] = onednn_mode(*options_.fp_math);
    setter.set_fp_math(mode, name);
  }
  if (options_.flush_denormals) setter.set_flush_denormals(*options_.flush_denormals);
  setter.bind_threads();
  if (options_.nice) setter.set_niceness(*options_.nice);
  if (options_.real_time) {
    const bool fifo = options_.real_time->policy == RealTime::Policy::kFifo;
    setter.set_real_time({fifo ? SCHED_FIFO : SCHED_RR, options_.real_time->priority});
  }
  note_in_force(applied.plan_, applied.undo_);
  return applied;
}

std::optional<ThreadPlan> thread_plan_in_force() {
  const std::lock_guard<std::mutex> lock(in_force().mutex);
  if (in_force().plans.empty()) return std::nullopt;
  return in_force().plans.back();
}

ThreadPlan optimize_system_for_training(ThreadingOptions options, const Workload& workload) {
  const ThreadingOptimizer optimizer(options);
  AppliedPlan applied = optimizer.apply(optimizer.plan(workload));
  applied.keep();
  if (options.verbose) std::fputs(applied.plan().explain().c_str(), stderr);
  return applied.plan();
}

}  // namespace torchfeed
