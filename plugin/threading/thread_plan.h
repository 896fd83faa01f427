#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed {

/// What is known of the work that is planned for. Every field may stay unknown.
struct Workload {
  /// Samples in the dataset, samples in a batch, and bytes of one sample. 0: unknown.
  std::uint64_t dataset_size = 0;
  std::uint64_t batch_size = 0;
  std::uint64_t sample_bytes = 0;
  /// Memory that a worker takes for itself, beside the batches that it makes, in bytes. 0: unknown, taken as 128 MiB.
  std::uint64_t worker_bytes = 0;
  /// Bytes of the tensors that most operators of the model write: an activation, batch x channels x height x width x 4.
  /// 0: unknown. It decides whether a few cores are worth threads inside operators.
  std::uint64_t activation_bytes = 0;
  /// Loader workers that run beside training, at most 1024; 0: none. Above 0 they get cores that the trainer leaves
  /// alone, where there are enough. -1: unknown, the trainer keeps every core.
  int dataloader = -1;
};

/// How the machine's cores are shared out, and why. Counts of threads unless said otherwise.
struct ThreadPlan {
  /// Cores, and hardware threads, inside the process's affinity mask. Of the cores, those of each kind: machines whose
  /// cores are alike have performance cores alone.
  int physical_cores = 1;
  int logical_cores = 1;
  int performance_cores = 1;
  int efficiency_cores = 0;
  /// ATen's threads inside an operator (OpenMP, oneDNN).
  int intra_op = 1;
  /// ATen's pool for operators beside each other (torch.jit.fork, at::launch).
  int inter_op = 1;
  /// Threads of the BLAS library that sizes itself (OpenBLAS, MKL); 0: none is loaded, so nothing is set.
  int blas = 0;
  /// Worker processes that a DataLoader should have where batches are computed, and the most that it may start where
  /// workers rather wait (for disks, networks) than compute.
  int dataloader = 0;
  int dataloader_limit = 0;
  /// Cores that training computes on: as many as intra_op or BLAS takes, or the trainer's part where the loader has
  /// cores of its own.
  int training = 1;
  /// Workers for preprocessing before training (parallel_map).
  int preprocessing = 1;
  /// Threads inside an operator for a model that serves one request at a time, alone on the machine.
  int inference = 1;
  /// Cores left to the system by workers, and by the trainer too where the loader has cores of its own.
  int reserved = 0;
  /// The CPUs that the trainer's threads and the loader's workers are bound to. Empty: not bound.
  std::vector<int> trainer_cpus;
  std::vector<int> dataloader_cpus;
  /// Whether OpenBLAS's products run on OpenMP's threads instead of on its own, which newer ones can (Debian 13's).
  bool blas_on_openmp = false;
  /// The processor whose kernels OpenBLAS is to run, by its names, where it does not know this one. Empty: as it is.
  std::string blas_kernels;
  /// Whether OpenMP's idle threads sleep at once instead of spinning on cores that BLAS's own threads could use.
  bool short_spinning = true;
  /// Primitives that oneDNN keeps compiled; 0: as many as it does by itself.
  int primitive_cache = 0;
  /// Bytes of freed CPU tensors' memory that are kept for the next tensors, at most; 0: none, malloc alone.
  std::uint64_t tensor_memory = 0;
  /// Whether recurrent layers of small states run in oneDNN: see ThreadingOptions.
  bool onednn_rnn = false;
  /// A sentence for each number; after applying, also what could not be set.
  std::vector<std::string> reasons;

  /// The reasons, a line each, under a heading.
  std::string explain() const;
};

/// Workers for each job, as calculate_optimal_workers() gives them; the fields of ThreadPlan by the same names.
struct WorkerCounts {
  int dataloader = 0;
  int training = 1;
  int preprocessing = 1;
  int inference = 1;
};

/// A DataLoader's options for a dataset, by DataLoaderOptions' names.
struct DataLoaderConfig {
  int num_workers = 0;
  int prefetch_factor = 2;
  bool persistent_workers = false;
  bool pin_memory = false;
  /// A sentence for each.
  std::vector<std::string> reasons;
};

}  // namespace torchfeed
