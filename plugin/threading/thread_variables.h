#pragma once

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
  /// OpenMP's limit on all its threads together.
  std::optional<int> omp_thread_limit;
  /// The first variable that binds OpenMP's threads to CPUs, e.g. "OMP_PROC_BIND=close"; empty without one.
  std::string binding;
  /// Whose kernels OpenBLAS is to run (OPENBLAS_CORETYPE); empty without.
  std::string blas_kernels;
  /// The variable that sizes oneDNN's primitive cache, with its value; empty without one.
  std::string primitive_cache;
  /// The first variable that sets up glibc's malloc, or preloads another, with its value; empty without one.
  std::string malloc_setting;
  std::vector<std::string> notes;
};

/// Reads OMP_NUM_THREADS (of a list for nested regions, the first), MKL_NUM_THREADS, OPENBLAS_NUM_THREADS and
/// OMP_THREAD_LIMIT, and what binds: OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY, KMP_AFFINITY and KMP_HW_SUBSET;
/// OPENBLAS_CORETYPE; ONEDNN_PRIMITIVE_CACHE_CAPACITY (DNNL_PRIMITIVE_CACHE_CAPACITY); and MALLOC_TRIM_THRESHOLD_,
/// MALLOC_MMAP_THRESHOLD_, MALLOC_MMAP_MAX_, MALLOC_TOP_PAD_, malloc's part of GLIBC_TUNABLES, and a malloc (jemalloc,
/// tcmalloc, mimalloc) in LD_PRELOAD.
/// `get` stands in for getenv.
ThreadVariables read_thread_variables(const std::function<const char*(const char*)>& get = {});

}  // namespace torchfeed::threading
