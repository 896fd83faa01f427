#pragma once

#include <torchfeed/plugin/threading/thread_plan.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed {

struct ThreadingOptions {
  /// Threads inside an operator, 0 to 4096. 0: from the environment's OMP_NUM_THREADS or MKL_NUM_THREADS, else one for
  /// each physical core that the affinity mask and the CPU quota leave.
  int intra_op = 0;
  /// Threads for operators beside each other, 0 to 4096. 0: as many as intra_op leaves room for.
  int inter_op = 0;
  /// Binds the trainer's threads to cores that the loader's workers leave alone, where there are 8 cores or more and
  /// the plan has workers. Not for a machine with a second such program on it: both would take the same cores.
  bool pin = false;
  /// Prints explain() to stderr in optimize_system_for_training().
  bool verbose = true;
};

/// A plan that is in force. Ends with restore(), or with the object unless keep() was called.
class [[nodiscard]] AppliedPlan {
 public:
  AppliedPlan(AppliedPlan&& other) noexcept;
  AppliedPlan& operator=(AppliedPlan&&) = delete;
  ~AppliedPlan();

  /// The plan with the numbers that were read back, and a reason more for each that differs from what was asked.
  const ThreadPlan& plan() const { return plan_; }
  /// Leaves everything as it is for good.
  void keep() { active_ = false; }
  /// Puts back the counts of intra-op and BLAS threads. The inter-op pool can be sized once in a process and stays.
  /// Same thread as apply().
  void restore();

 private:
  friend class ThreadingOptimizer;
  AppliedPlan() = default;

  ThreadPlan plan_;
  bool active_ = true;
  int previous_intra_op_ = 0;
  std::optional<int> previous_blas_;
};

/// Finds out what the machine gives this process and sets LibTorch's thread counts to it.
///
/// Threads: call plan() and apply() from the thread that will train, before the first parallel work; OpenMP keeps its
/// count per thread, and the inter-op pool is sized when it is first used.
class ThreadingOptimizer {
 public:
  /// Errors: c10::Error for a count outside 0 to 4096.
  explicit ThreadingOptimizer(ThreadingOptions options = {});

  /// Reads the machine, the affinity mask, the CPU quota, free memory and the environment. Changes nothing.
  /// Errors: c10::Error for a workload that asks for workers outside -1 to 1024.
  ThreadPlan plan(const Workload& workload = {}) const;

  /// The workers for each job, from plan().
  WorkerCounts calculate_optimal_workers(const Workload& workload = {}) const;

  /// A DataLoader's options for a dataset of `dataset_size` samples of `sample_bytes` each, in batches of `batch_size`.
  /// 0: unknown. `worker_bytes`: see Workload. Errors: c10::Error for a number below 0.
  DataLoaderConfig data_loader_config(std::int64_t dataset_size, std::int64_t batch_size, std::int64_t sample_bytes = 0,
                                      std::int64_t worker_bytes = 0) const;

  /// Sets ATen's intra-op and inter-op counts and BLAS's, shortens the spinning of libgomp's idle threads, and reads
  /// every count back. What cannot be set (the inter-op pool once it runs) is told in the result and is no error.
  /// Errors: c10::Error for a plan with a count outside its range.
  AppliedPlan apply(const ThreadPlan& plan) const;

 private:
  ThreadingOptions options_;
};

/// Plans, applies for the life of the process, and explains on stderr. Call it once, first thing in main; calling it
/// again does no harm. Returns the plan with the numbers that were read back. Errors: c10::Error for invalid options.
ThreadPlan optimize_system_for_training(ThreadingOptions options = {});

}  // namespace torchfeed
