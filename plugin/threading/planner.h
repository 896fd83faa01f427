#pragma once

#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/thread_plan.h>
#include <torchfeed/plugin/threading/thread_variables.h>
#include <torchfeed/plugin/threading/topology.h>

#include <optional>

namespace torchfeed::threading {

/// With fewer cores than these, none is set apart: not for the system, and not for the loader's workers.
inline constexpr int kEnoughCores = 8;

/// With fewer cores than these, OpenMP's threads cost more than they gain in operators on small tensors: half of a
/// region's time at most is to be had with two. Where the other thread sleeps between operators, waking it took 12 to
/// 40 us where it was measured, as long as an operator takes for 256 KiB; where it spins, as by LibTorch 2's own
/// number, it keeps OpenBLAS's from its core, and steps of products took 3 to 40 times as long as with one.
inline constexpr int kSomeCores = 4;
/// Activations from which on it gains: in between (1 MiB) it makes no difference.
inline constexpr std::uint64_t kLargeActivation = std::uint64_t{4} << 20;

/// Memory that a worker is taken to need where the workload does not say, in bytes.
inline constexpr std::uint64_t kDefaultWorkerBytes = std::uint64_t{128} << 20;

/// Everything that the plan depends on, so that the plan of any machine can be computed on any other.
struct PlanInputs {
  CpuTopology topology;
  std::optional<CpuQuota> quota;
  /// What may still be taken; empty: unknown, and taken as enough.
  std::optional<MemoryRoom> memory;
  ThreadVariables variables;
  BlasLibrary blas = BlasLibrary::kNone;
  /// Whether its products can run on OpenMP's threads: can_share_openmp_team().
  bool blas_team = false;
  /// The kernels that BLAS runs, and those that the processor could: see better_blas_kernels().
  std::string blas_kernels;
  CpuFeatures features;
  Workload workload;
  /// The user's own numbers; 0: from the machine.
  int intra_op = 0;
  int inter_op = 0;
  /// Threads that LibTorch's inter-op pool has or would have by itself; 0: unknown, taken as one for each core.
  int default_inter_op = 0;
  /// Threads that LibTorch took inside an operator before the first plan: by itself, or as the program had set it.
  /// 0: unknown, taken as one for each core.
  int default_intra_op = 0;
  int primitive_cache = 0;
  /// Whether memory of freed tensors may be kept.
  bool tensor_memory = true;
  /// Whether OpenBLAS's products may run on OpenMP's threads where blas_team tells that they can.
  bool blas_on_openmp = true;
  /// Whether recurrent layers may run in oneDNN.
  bool onednn_rnn = true;
  /// Whether threads may be bound to CPUs.
  bool pin = false;
};

/// Splits the machine. A pure function.
///
///   cores          min(physical cores in the mask, quota rounded up)
///   reserved       1 with at least kEnoughCores cores, else 0
///   intra_op       the option, else MKL_NUM_THREADS, else OMP_NUM_THREADS (LibTorch's own order), else the cores, of a
///                  hybrid machine the performance cores alone where those do more together than all cores, each
///                  with a part as large as the slowest's; OMP_THREAD_LIMIT caps them all. Where the loader has cores
///                  of its own, what those and the reserved one leave. One where there are less than kSomeCores,
///                  OpenBLAS runs on several threads of its own, and the workload's activations are less than
///                  kLargeActivation, or are not known and LibTorch took one before the first plan.
///   inter_op       the option, else LibTorch's own number, as it can be set once and not be put back
///   blas           OPENBLAS_NUM_THREADS or MKL_NUM_THREADS for that library, else intra_op, or the cores where that is
///                  one for few cores; 0 without such a library. Not one beside two of OpenMP's,
///                  which keep the other from its core while they wait: that was 1.09 times as fast for an MLP of width
///                  1024, and half as fast for a product of 256 x 4096 and 4096 x 4096, where it was measured
///   blas_on_openmp where OpenBLAS can, takes more than one thread, and no more than intra_op by its variable
///   short_spinning where BLAS runs on several threads of its own, which waiting ones of OpenMP's would keep from their
///                  cores: not with two cores on both of which LibTorch by itself computes, unless activations are
///                  large, as waking the other thread for each operator took 40 us where its core had slept
///   dataloader     what the workload asks for, else 0 with one core; else what trainer and system leave (one core at
///                  least is the trainer's; of a hybrid machine the efficiency cores), at most as many as the data are
///                  worth: 0 to 2 for small data, 4 where nothing is known, up to 16 for large data. Never more than
///                  fit into half of the free memory.
///   blas_kernels   those of better_blas_kernels(), but where OPENBLAS_CORETYPE tells
///   tensor_memory  a quarter of the free memory, 4 GiB at most; 0 where it is short or the user has set up malloc
///   onednn_rnn     unless the option says no
///   preprocessing  the cores but the reserved one, as many as fit into half of the free memory
///   inference      the option or variable as for intra_op, else the compute cores of the largest NUMA node
///
/// The loader has cores of its own where the workload asks for workers or `pin` is set, there are kEnoughCores cores,
/// and the plan has workers, and where the user's own intra_op leaves some; they are never more than half of the cores,
/// and a quarter where `pin` alone asks. With `pin` the plan says which CPUs.
ThreadPlan plan_threads(const PlanInputs& inputs);

/// The loader's options for inputs.workload, from the same plan. `cuda`: whether there is a GPU to copy batches to.
DataLoaderConfig plan_data_loader(const PlanInputs& inputs, bool cuda);

}  // namespace torchfeed::threading
