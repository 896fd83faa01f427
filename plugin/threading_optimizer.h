#pragma once

#include <torchfeed/plugin/threading/thread_plan.h>

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed {

/// How oneDNN may round float32 inside convolutions, products and recurrent cells, as it names them. All but kStrict
/// change results, and are fast only on processors with instructions for that type.
enum class FpMath { kStrict, kBf16, kF16, kTf32, kAny };

/// Scheduling ahead of every usual process (SCHED_FIFO or SCHED_RR, see sched(7)), which needs CAP_SYS_NICE or a limit
/// RLIMIT_RTPRIO. Threads that wait in turns take the machine's cores from everything else: leave a core or a quota.
struct RealTime {
  enum class Policy { kFifo, kRoundRobin };
  Policy policy = Policy::kRoundRobin;
  /// 1 (least) to 99.
  int priority = 1;
};

struct ThreadingOptions {
  /// Threads inside an operator, 0 to 4096. 0: from the environment's MKL_NUM_THREADS or OMP_NUM_THREADS, else one for
  /// each physical core that the affinity mask and the CPU quota leave; with two or three cores one where LibTorch took
  /// one, beside OpenBLAS's own threads, unless Workload::activation_bytes tells of large tensors.
  int intra_op = 0;
  /// Threads for operators beside each other (torch.jit.fork), 0 to 4096, which can be set once in a process. 0:
  /// LibTorch's own number, about one a core.
  int inter_op = 0;
  /// Binds the trainer's threads to cores that the loader's workers leave alone, where there are 8 cores or more and
  /// the plan has workers. Not for a machine with a second such program on it: both would take the same cores.
  bool pin = false;
  /// Whether OpenBLAS may run the kernels for this processor where it does not know it, and runs some of 2004 instead
  /// (Debian 12's on Intel's Emerald Rapids: a quarter of the speed). Products change in their last bits.
  bool blas_kernels = true;
  /// Whether OpenBLAS's products may run on OpenMP's threads, with ATen's operators, instead of on OpenBLAS's own,
  /// where it lets them (Debian 13's): the idle threads of two teams spin on cores that the other's need. The program
  /// must not set OpenBLAS's threads callback of its own meanwhile.
  bool blas_on_openmp = true;
  /// Primitives that oneDNN keeps compiled, 0 to 1,048,576. 0: 4096, or as it is where memory is short or the
  /// environment's ONEDNN_PRIMITIVE_CACHE_CAPACITY tells.
  int primitive_cache = 0;
  /// Whether memory of freed CPU tensors may be kept for the next ones, so that a step does not get its pages from the
  /// kernel anew. What malloc's variables (MALLOC_TRIM_THRESHOLD_ and the like, GLIBC_TUNABLES) or another malloc in
  /// LD_PRELOAD decide goes before it. False ends what an earlier plan keeps.
  bool tensor_memory = true;
  /// Whether GRU layers, and before LibTorch 2 LSTM layers, of float32 and small states (up to some thousand numbers in
  /// a batch) may run as a oneDNN primitive each, forward and backward, instead of some twenty operators for each time
  /// step. Results change in their last bits; gradients of gradients, and numbers that are not finite, are left to
  /// LibTorch's operators. So is all where LibTorch has a oneDNN of its own, and with
  /// at::globalContext().setUserEnabledMkldnn(false).
  bool onednn_rnn = true;
  /// None: as it is.
  std::optional<FpMath> fp_math = std::nullopt;
  /// Whether this thread and its OpenMP team take denormals as zero, which changes results that small. OpenBLAS's own
  /// threads are not reached. None: as it is.
  std::optional<bool> flush_denormals = std::nullopt;
  /// Niceness of all threads, -20 to 19, which forked workers inherit. To lower it needs CAP_SYS_NICE or RLIMIT_NICE.
  /// None: as it is.
  std::optional<int> nice = std::nullopt;
  /// Real-time scheduling of all threads; workers and later threads are scheduled as usual. None: as it is.
  std::optional<RealTime> real_time = std::nullopt;
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
  void keep();
  /// Puts back, the last first, what apply() changed: counts of threads, who runs BLAS's products, its kernels,
  /// OpenMP's spinning, oneDNN's settings, the memory that is kept, recurrent layers, masks, denormals, niceness and
  /// scheduling. The inter-op pool can be sized once in a process and stays. Plans in force end in the reverse of their
  /// order. Same thread as apply(). What the system refuses is told on stderr: without CAP_SYS_NICE niceness cannot be
  /// lowered again. In a forked child it does nothing.
  void restore();

 private:
  friend class ThreadingOptimizer;
  AppliedPlan();

  ThreadPlan plan_;
  std::vector<std::function<void()>> undo_;
  pid_t owner_;
};

/// Finds out what the machine gives this process and sets LibTorch's thread counts to it.
///
/// Threads: call plan() and apply() from the thread that will train, before the first parallel work; OpenMP keeps its
/// count per thread, and the inter-op pool is sized when it is first used.
class ThreadingOptimizer {
 public:
  /// Errors: c10::Error for an option outside its range.
  explicit ThreadingOptimizer(ThreadingOptions options = {});

  /// Reads the machine, the affinity mask, the CPU quota, free memory and the environment. Changes nothing. Without
  /// `pin`, CPUs that the plan in force binds trainer and workers to stay theirs.
  /// Errors: c10::Error for a workload that asks for workers outside -1 to 1024.
  ThreadPlan plan(const Workload& workload = {}) const;

  /// The workers for each job, from plan().
  WorkerCounts calculate_optimal_workers(const Workload& workload = {}) const;

  /// A DataLoader's options for a dataset of `dataset_size` samples of `sample_bytes` each, in batches of `batch_size`.
  /// 0: unknown. `worker_bytes`: see Workload. Errors: c10::Error for a number below 0.
  DataLoaderConfig data_loader_config(std::int64_t dataset_size, std::int64_t batch_size, std::int64_t sample_bytes = 0,
                                      std::int64_t worker_bytes = 0) const;

  /// Sets ATen's intra-op and inter-op counts, OpenMP's and BLAS's, who runs its products, and its kernels, shortens
  /// the spinning of libgomp's idle threads, sets oneDNN's primitive cache, keeps freed tensors' memory, has recurrent
  /// layers run in oneDNN, binds threads where the plan has CPUs for them, sets what else the options ask for, and
  /// reads everything back. What cannot be set (the inter-op pool once it runs) is told in the result and is no error.
  /// Errors: c10::Error for a plan with a count or CPU outside its range.
  AppliedPlan apply(const ThreadPlan& plan) const;

 private:
  ThreadingOptions options_;
};

/// Plans, applies for the life of the process, and explains on stderr. Call it once, first thing in main; calling it
/// again does no harm: what an earlier plan bound stays bound unless `pin` asks anew. With `workload.dataloader` above
/// 0 the trainer leaves cores to so many workers, where there are enough. Returns the plan with the numbers that were
/// read back. Errors: c10::Error for invalid options.
ThreadPlan optimize_system_for_training(ThreadingOptions options = {}, const Workload& workload = {});

/// The plan that is in force in this process, with the numbers that were read back: the last that was applied and not
/// put back. A loader takes its share from it. Any thread.
std::optional<ThreadPlan> thread_plan_in_force();

}  // namespace torchfeed
