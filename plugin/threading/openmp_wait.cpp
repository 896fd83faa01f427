#include <torchfeed/plugin/threading/openmp_wait.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <mutex>
#include <thread>

namespace torchfeed::threading {
namespace {

/// Where the machine has far more CPUs than this process may use, a sleeping thread for each is too high a price, and a
/// limit on threads may be near, which libgomp answers by ending the process.
constexpr int kMostParkedThreads = 64;

/// libgomp's entry for a parallel region: function, its data, threads (0: default), flags.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

void count_thread(void* counter) { static_cast<std::atomic<int>*>(counter)->fetch_add(1); }

/// Runs a region of `team` threads in a new thread and puts both to sleep. Returns the threads that took part.
int park_team(GompParallel parallel, int team) {
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  std::promise<int> ready;
  std::future<int> size = ready.get_future();
  try {
    std::thread([parallel, team, ready = std::move(ready)]() mutable {
      std::atomic<int> counter{0};
      parallel(count_thread, &counter, static_cast<unsigned>(team), 0);
      ready.set_value(counter.load());
      for (;;) pause();
    }).detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  return size.get();
}

}  // namespace

OpenMpSpinning shorten_openmp_spinning(int team) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  // Threads that earlier calls have added to libgomp's count: those of each team but its first.
  static int added = 0;
  static int parked = 0;
  OpenMpSpinning result;
  result.parked_threads = parked;
  for (const char* name : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}) {
    if (const char* value = std::getenv(name)) {
      result.reason = std::string(name) + "=" + value + " decides";
      return result;
    }
  }
  const auto parallel = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  const auto cpus = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_num_procs"));
  // LLVM's and Intel's runtimes answer to libgomp's names as well.
  if (!parallel || !cpus || dlsym(RTLD_DEFAULT, "__kmpc_fork_call")) {
    result.reason = "the OpenMP library is not libgomp";
    return result;
  }
  if (team < 2) {
    result.reason = "one thread has nobody to wait for";
    return result;
  }
  // libgomp counts the main thread, its team's others and ours: 1 + (team - 1) + added > CPUs.
  const int missing = cpus() + 1 - team - added;
  if (missing > kMostParkedThreads) {
    result.reason = "it would take " + std::to_string(missing + 1) + " sleeping threads on this machine";
    return result;
  }
  if (missing > 0) {
    const int took_part = park_team(parallel, missing + 1);
    parked += took_part;
    added += took_part - 1;
    result.parked_threads = parked;
    if (took_part < missing + 1) {
      result.reason = "libgomp gave " + std::to_string(took_part) + " of " + std::to_string(missing + 1) + " threads";
      return result;
    }
  }
  result.shortened = true;
  result.reason = "so that waiting threads leave the core to BLAS and loader workers";
  return result;
}

}  // namespace torchfeed::threading
