#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading/thread_plan.h>
#include <torchfeed/plugin/threading/topology.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <cstdio>
#include <utility>

namespace torchfeed {
namespace {

using threading::kMaxThreads;

void check_count(const char* where, const char* name, int count, int least) {
  TORCH_CHECK(count >= least && count <= kMaxThreads, where, ": expected ", name, " from ", least, " to ", kMaxThreads,
              ", got ", count);
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

std::string ThreadPlan::explain() const {
  std::string text = "torchfeed: threads for training\n";
  for (const std::string& reason : reasons) text += "  " + reason + "\n";
  return text;
}

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

ThreadPlan ThreadingOptimizer::plan() const {
  threading::PlanInputs inputs;
  inputs.topology = threading::load_topology();
  inputs.quota = threading::read_cpu_quota();
  inputs.variables = threading::read_thread_variables();
  inputs.blas = threading::blas_library();
  inputs.intra_op = options_.intra_op;
  inputs.inter_op = options_.inter_op;
  threading::PlannedThreads planned = threading::plan_threads(inputs);
  ThreadPlan plan;
  plan.physical_cores = inputs.topology.physical_cores;
  plan.logical_cores = inputs.topology.logical_cores;
  plan.intra_op = planned.intra_op;
  plan.inter_op = planned.inter_op;
  plan.blas = planned.blas;
  plan.dataloader = planned.dataloader;
  plan.reasons = std::move(planned.reasons);
  return plan;
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
