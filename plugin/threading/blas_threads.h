#pragma once

#include <sys/types.h>

#include <mutex>
#include <optional>

namespace torchfeed::threading {

/// The BLAS library with threads of its own that this process has loaded, found at run time.
enum class BlasLibrary {
  /// None: a BLAS without threads, or one whose functions are hidden inside LibTorch (the official archives' MKL, which
  /// at::set_num_threads sizes).
  kNone,
  /// OpenBLAS with its own pthreads: a pool that at::set_num_threads does not size.
  kOpenBlas,
  /// OpenBLAS built on OpenMP, or without threads: its count follows OpenMP's, so it is read and never set here.
  kOpenBlasOnOpenMp,
  kMkl,
};

BlasLibrary blas_library();
const char* blas_library_name(BlasLibrary library);

/// A symbol of that library; null without it.
void* blas_symbol(const char* name);

/// Held while a product is computed on other threads than BLAS's own (share_openmp_team()), and while BLAS's number of
/// threads is set, which frees the memory that products' parts have. Products on BLAS's own threads do not hold it.
std::mutex& blas_products_mutex();

/// Whether OpenBLAS's own threads are there: neither to be started by the first product, nor ended by a fork.
bool blas_threads_run();

/// Starts OpenBLAS's own threads where a fork has ended them, as its next product would. Where the system starts none,
/// it goes on with one thread; with a number of one nothing is done. By who holds blas_products_mutex().
void start_blas_threads();

/// The number of threads that BLAS uses; empty without a library that tells.
std::optional<int> blas_num_threads();

/// The same, seen through SingleThreadedBlasScopes: what it is when the last of them ends.
std::optional<int> usual_blas_num_threads();

/// Sets the number and reads it back: true where it is now `count`. False without a library, for `count` < 1, and where
/// the library keeps another number (OpenBLAS has a limit from when it was built) or the system starts no more threads:
/// where not even those of before are to be had, it is one for good. Any thread. While there is a
/// SingleThreadedBlasScope, the number is noted for its end. Not for a forked child: see there.
bool set_blas_num_threads(int count);

/// Holds BLAS at one thread in this process for the time of a fork, so that the child starts with a count of one, or of
/// computing in several threads. Threads may have such scopes at once: the last that ends puts the count back.
///
/// OpenBLAS ends its pool in the parent's fork handler. In the child the first product starts the pool again, and so
/// does openblas_set_num_threads, even with 1; a child that inherits a count of one starts no thread ever. So the count
/// is set before fork and nothing of BLAS is set after it:
///
///     pid_t child;
///     {
///       SingleThreadedBlasScope scope;
///       child = fork();
///     }
///     if (child == 0) compute_on_this_thread_alone();  // OpenMP: before the first parallel region in the child
///
/// The parent gets its count back at the end of the scope, and its pool if it ran before, unless the system starts no
/// more threads; the child's copy does nothing.
/// Products of the parent's other threads run on one thread meanwhile.
class SingleThreadedBlasScope {
 public:
  SingleThreadedBlasScope();
  ~SingleThreadedBlasScope();
  SingleThreadedBlasScope(const SingleThreadedBlasScope&) = delete;
  SingleThreadedBlasScope& operator=(const SingleThreadedBlasScope&) = delete;

 private:
  pid_t owner_;
};

}  // namespace torchfeed::threading
