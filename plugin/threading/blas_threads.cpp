#include <torchfeed/plugin/threading/blas_threads.h>

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::threading {
namespace {

/// The functions of the library in use. The handle that they came through stays open for the life of the process.
struct Blas {
  BlasLibrary library = BlasLibrary::kNone;
  int (*get)() = nullptr;
  void (*set)(int) = nullptr;
  void* handle = nullptr;
  /// OpenBLAS's own variables, null where its build hides them: whether it takes its pool for running, and its count.
  int* pool_runs = nullptr;
  int* count = nullptr;
};

/// What openblas_get_parallel() returns for the build with pthreads.
constexpr int kOpenBlasPthreads = 1;

Blas look_in(void* handle) {
  Blas blas;
  blas.handle = handle;
  blas.get = reinterpret_cast<int (*)()>(dlsym(handle, "openblas_get_num_threads"));
  blas.set = reinterpret_cast<void (*)(int)>(dlsym(handle, "openblas_set_num_threads"));
  if (blas.get && blas.set) {
    const auto parallel = reinterpret_cast<int (*)()>(dlsym(handle, "openblas_get_parallel"));
    blas.library =
        !parallel || parallel() == kOpenBlasPthreads ? BlasLibrary::kOpenBlas : BlasLibrary::kOpenBlasOnOpenMp;
    blas.pool_runs = static_cast<int*>(dlsym(handle, "blas_server_avail"));
    blas.count = static_cast<int*>(dlsym(handle, "blas_cpu_number"));
    return blas;
  }
  blas.get = reinterpret_cast<int (*)()>(dlsym(handle, "MKL_Get_Max_Threads"));
  blas.set = reinterpret_cast<void (*)(int)>(dlsym(handle, "MKL_Set_Num_Threads"));
  if (blas.get && blas.set) blas.library = BlasLibrary::kMkl;
  return blas;
}

int collect_library(dl_phdr_info* info, size_t, void* data) {
  const std::string path = info->dlpi_name ? info->dlpi_name : "";
  const std::string name = path.substr(path.find_last_of('/') + 1);
  if (name.find("blas") != std::string::npos || name.find("mkl") != std::string::npos)
    static_cast<std::vector<std::string>*>(data)->push_back(path);
  return 0;
}

Blas find_blas() {
  if (const Blas global = look_in(RTLD_DEFAULT); global.library != BlasLibrary::kNone) return global;
  // A LibTorch that was opened with RTLD_LOCAL (a plug-in, Python) keeps its symbols out of the global scope.
  std::vector<std::string> paths;
  dl_iterate_phdr(collect_library, &paths);
  for (const std::string& path : paths) {
    void* handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) continue;
    if (const Blas found = look_in(handle); found.library != BlasLibrary::kNone) return found;
    dlclose(handle);
  }
  return {};
}

const Blas& blas() {
  static const Blas found = find_blas();
  return found;
}

/// The SingleThreadedBlasScopes of this process. Never destroyed, as threads may have some while it ends.
struct Scopes {
  std::mutex mutex;
  int count = 0;
  int threads = 0;          // to put back at the end of the last; 0: nothing was changed
  bool found_idle = false;  // the pool, at the beginning of the first
};

std::atomic<Scopes*> all_scopes{nullptr};

/// A forked child has none, whatever its parent's other threads were at.
Scopes& scopes() {
  static const bool ready = [] {
    all_scopes = new Scopes;
    pthread_atfork(nullptr, nullptr, [] { all_scopes = new Scopes; });
    return true;
  }();
  static_cast<void>(ready);
  return *all_scopes;
}

/// OpenBLAS's variables are read and written by its own threads, without more ado.
std::atomic_ref<int> variable(int* address) { return std::atomic_ref<int>(*address); }

/// Whether a fork has ended OpenBLAS's pool, or its first product has still to start it.
bool pool_is_idle() {
  return blas().library == BlasLibrary::kOpenBlas && blas().pool_runs && blas().count &&
         variable(blas().pool_runs).load() == 0;
}

/// Sets the count where that may start the pool's threads. OpenBLAS answers a thread that cannot be started with
/// raise(SIGINT) and a pool that is not whole; here that is false, and a Ctrl-C meanwhile stays one. By who holds
/// blas_products_mutex(), as go_on_without_pool().
bool set_unless_refused(int count) {
  sigset_t interrupt, before;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, &before);
  blas().set(count);
  bool refused = false, interrupted = false;
  const timespec at_once{};
  for (siginfo_t info{}; sigtimedwait(&interrupt, &info, &at_once) == SIGINT;) {
    const bool raised_here = info.si_pid == getpid();  // a terminal's has none; glibc makes one code of raise and kill
    (raised_here ? refused : interrupted) = true;
  }
  if (interrupted) kill(getpid(), SIGINT);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return !refused;
}

/// Whether OpenBLAS has a part of a pool: a higher count would start second threads in the same places.
std::atomic<bool> pool_is_broken{false};

/// After a refusal: one thread for good, which needs no pool. What there is of a pool is not to be ended before a fork,
/// where OpenBLAS would wait for threads that never were.
void go_on_without_pool() {
  pool_is_broken = true;
  if (blas().pool_runs && blas().count) {
    variable(blas().count).store(1);
    variable(blas().pool_runs).store(0);
  } else {
    blas().set(1);
  }
}

}  // namespace

BlasLibrary blas_library() { return blas().library; }

void* blas_symbol(const char* name) {
  return blas().library == BlasLibrary::kNone ? nullptr : dlsym(blas().handle, name);
}

const char* blas_library_name(BlasLibrary library) {
  switch (library) {
    case BlasLibrary::kOpenBlas:
      return "OpenBLAS";
    case BlasLibrary::kOpenBlasOnOpenMp:
      return "OpenBLAS on OpenMP";
    case BlasLibrary::kMkl:
      return "MKL";
    case BlasLibrary::kNone:
      break;
  }
  return "no BLAS library with threads of its own";
}

std::mutex& blas_products_mutex() {
  static auto* const mutex = new std::mutex;  // never destroyed, as threads may compute while the process ends
  return *mutex;
}

bool blas_threads_run() { return blas().library == BlasLibrary::kOpenBlas && !pool_is_idle(); }

void start_blas_threads() {
  const int count = blas().get();
  if (count > 1 && pool_is_idle() && !pool_is_broken && !set_unless_refused(count)) go_on_without_pool();
}

std::optional<int> blas_num_threads() {
  if (blas().library == BlasLibrary::kNone) return std::nullopt;
  return blas().get();
}

std::optional<int> usual_blas_num_threads() {
  const std::lock_guard<std::mutex> lock(scopes().mutex);
  return scopes().threads > 0 ? scopes().threads : blas_num_threads();
}

bool set_blas_num_threads(int count) {
  const Blas& found = blas();
  if (count < 1 || found.library == BlasLibrary::kNone) return false;
  // OpenBLAS on OpenMP would call omp_set_num_threads and so change ATen's count.
  if (found.library == BlasLibrary::kOpenBlasOnOpenMp) return found.get() == count;
  const std::lock_guard<std::mutex> lock(scopes().mutex);
  if (pool_is_broken) return count == 1;
  if (scopes().count > 0) {
    scopes().threads = count;
    scopes().found_idle = false;  // the pool may be too small for it
    return true;
  }
  // Setting the number that is there already would still start a pool that a fork has ended.
  const int before = found.get();
  if (before == count) return true;
  const std::lock_guard<std::mutex> products(blas_products_mutex());
  if (!set_unless_refused(count) && !set_unless_refused(before)) go_on_without_pool();
  return found.get() == count;
}

SingleThreadedBlasScope::SingleThreadedBlasScope() : owner_(getpid()) {
  if (blas().library != BlasLibrary::kOpenBlas && blas().library != BlasLibrary::kMkl) return;
  const std::lock_guard<std::mutex> lock(scopes().mutex);
  const int threads = blas().get();
  if (scopes().count++ > 0 || threads == 1) return;
  scopes().threads = threads;
  scopes().found_idle = pool_is_idle();
  if (scopes().found_idle) {
    variable(blas().count).store(1);  // OpenBLAS's function would start a pool that nobody needs now
  } else {
    const std::lock_guard<std::mutex> products(blas_products_mutex());
    set_unless_refused(1);
  }
}

SingleThreadedBlasScope::~SingleThreadedBlasScope() {
  if (getpid() != owner_ || (blas().library != BlasLibrary::kOpenBlas && blas().library != BlasLibrary::kMkl)) return;
  const std::lock_guard<std::mutex> lock(scopes().mutex);
  if (--scopes().count > 0) return;
  const int threads = std::exchange(scopes().threads, 0);
  if (threads <= 1) return;
  if (scopes().found_idle && pool_is_idle()) {
    variable(blas().count).store(threads);
    return;
  }
  const std::lock_guard<std::mutex> products(blas_products_mutex());
  if (!pool_is_broken && set_unless_refused(threads)) return;
  go_on_without_pool();
  std::fprintf(stderr, "torchfeed: the system starts no %d more threads: BLAS goes on with one thread\n", threads - 1);
}

}  // namespace torchfeed::threading
