#pragma once

#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/topology.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::threading {

/// The most threads that an option or a variable may ask for; more is taken for a mistake.
inline constexpr int kMaxThreads = 4096;

/// What the user's environment asks for. A variable that is not a number of threads is left out and told in `notes`.
struct ThreadVariables {
  std::optional<int> omp_num_threads;
  std::optional<int> mkl_num_threads;
  std::optional<int> openblas_num_threads;
  std::vector<std::string> notes;
};

/// Reads OMP_NUM_THREADS (of a list for nested regions, the first), MKL_NUM_THREADS and OPENBLAS_NUM_THREADS.
/// `get` stands in for getenv.
ThreadVariables read_thread_variables(const std::function<const char*(const char*)>& get = {});

/// Everything that the plan depends on, so that the plan of any machine can be computed on any other.
struct PlanInputs {
  CpuTopology topology;
  std::optional<CpuQuota> quota;
  ThreadVariables variables;
  BlasLibrary blas = BlasLibrary::kNone;
  /// The user's own numbers; 0: from the machine.
  int intra_op = 0;
  int inter_op = 0;
};

/// Counts of threads, and a sentence for each.
struct PlannedThreads {
  int intra_op = 1;
  int inter_op = 1;
  int blas = 0;
  int dataloader = 0;
  std::vector<std::string> reasons;
};

/// Splits the machine. A pure function.
///   cores     min(physical cores in the mask, quota rounded up)
///   intra_op  the option, else OMP_NUM_THREADS, else MKL_NUM_THREADS (LibTorch's own order), else cores
///   inter_op  the option, else cores / intra_op, at least 1
///   blas      OPENBLAS_NUM_THREADS or MKL_NUM_THREADS for that library, else intra_op; 0 without such a library
///   dataloader  0 with one core, else cores - 1, at most 4
PlannedThreads plan_threads(const PlanInputs& inputs);

}  // namespace torchfeed::threading
