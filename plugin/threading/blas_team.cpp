#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/openmp_team.h>
#include <torchfeed/plugin/threading/stay_loaded.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace torchfeed::threading {
namespace {

using RunParts = void (*)(int sync, RunBlasPart run, int parts, std::size_t part_bytes, void* first, int argument);

/// OpenMP's functions, by the library that LibTorch has loaded.
struct OpenMp {
  GompParallel parallel = gomp_parallel();
  int (*thread_num)() = find("omp_get_thread_num");
  int (*num_threads)() = find("omp_get_num_threads");
  int (*max_threads)() = find("omp_get_max_threads");
  int (*in_parallel)() = find("omp_in_parallel");

  bool found() const { return parallel && thread_num && num_threads && max_threads && in_parallel; }

 private:
  static int (*find(const char* name))() { return reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, name)); }
};

const OpenMp& openmp() {
  static const OpenMp found;
  return found;
}

struct Product {
  RunBlasPart run;
  int parts;
  std::size_t part_bytes;
  char* first;
  int argument;
  int first_number;
  bool begun = false;  // the calling thread's

  void run_part(int i) const { run(first_number + i, first + static_cast<std::size_t>(i) * part_bytes, argument); }
};

/// Each thread of the team. All see the same number of threads, so that none begins where they are too few: a part
/// would wait for those that nobody runs.
void enter_team(void* data) {
  auto& product = *static_cast<Product*>(data);
  const int thread = openmp().thread_num();
  if (openmp().num_threads() < product.parts) return;
  if (thread == 0) product.begun = true;
  if (thread < product.parts) product.run_part(thread);
}

/// Threads that wait for a product's parts: at first awake, as products often follow each other, then asleep.
class Helpers {
 public:
  /// Starts those that are missing. Errors: std::system_error.
  void start(int count) {
    const std::lock_guard<std::mutex> lock(mutex_);
    start_locked(count);
  }

  /// All parts at the same time, one of them on the calling thread. One call at a time. Errors: std::system_error.
  void run(const Product& product) {
    std::unique_lock<std::mutex> lock(mutex_);
    start_locked(product.parts - 1);
    product_ = &product;
    next_ = 1;
    left_ = product.parts - 1;
    ++products_;
    lock.unlock();
    has_parts_.notify_all();
    product.run_part(0);
    wait_awake([this] { return left_ == 0; });
    lock.lock();
    is_done_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  /// As long as it is worth, as waking takes some 50 us.
  template <typename Condition>
  static void wait_awake(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    while (!condition() && std::chrono::steady_clock::now() < end) sched_yield();
  }

  /// On all of the process's CPUs, whatever OpenMP or a loader has bound the calling thread to, and with all signals
  /// blocked, as they are the program's threads'.
  void start_locked(int count) {
    if (threads_ >= count) return;
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    std::error_code error;
    try {
      for (const std::vector<int> cpus = available_cpus(); threads_ < count; ++threads_) {
        std::thread([this, cpus] {
          bind_current_thread(cpus);
          work();
        }).detach();
      }
    } catch (const std::system_error& refused) {
      error = refused.code();
    }
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    if (error) throw std::system_error(error);
  }

  [[noreturn]] void work() {
    for (unsigned seen = 0;;) {
      wait_awake([this, seen] { return products_ != seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      has_parts_.wait(lock, [this] { return left_ > 0 && next_ < product_->parts; });
      const Product& product = *product_;
      const int part = next_++;
      seen = products_;
      lock.unlock();
      product.run_part(part);
      lock.lock();
      if (--left_ == 0) is_done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable has_parts_, is_done_;
  const Product* product_ = nullptr;
  int threads_ = 0;
  int next_ = 0;                       // part that nobody has
  std::atomic<int> left_{0};           // parts that are not done
  std::atomic<unsigned> products_{0};  // so far
};

Helpers& helpers() {
  static auto* const value = new Helpers;  // never destroyed, as threads may compute while the process ends
  return *value;
}

std::atomic<bool> is_shared{false};
/// The thread that shared OpenMP's, the one that trains, and how many it had when it last multiplied.
std::atomic<std::thread::id> sharing_thread;
std::atomic<int> sharing_threads{1};

/// OpenMP's threads that the calling thread's product gets: the whole team, whatever the number of parts, as libgomp
/// would end the threads of a larger one and start them again. But no more than the thread that trains has: where
/// nobody has set a number, OpenMP's own is one for each CPU.
int team_for(int parts) {
  if (!openmp().found() || openmp().in_parallel() != 0) return 1;
  const int threads = openmp().max_threads();
  if (std::this_thread::get_id() != sharing_thread.load())
    return std::min(threads, std::max(parts, sharing_threads.load()));
  sharing_threads = threads;
  return threads;
}

const pid_t loaded_in = getpid();

void (*setter())(RunParts) {
  static const auto set = reinterpret_cast<void (*)(RunParts)>(blas_symbol("openblas_set_threads_callback_function"));
  return set;
}

/// OpenBLAS's variable, null where its build hides it.
RunParts* current() {
  static const auto variable = static_cast<RunParts*>(blas_symbol("openblas_threads_callback_"));
  return variable;
}

/// The numbers of parts that OpenBLAS was built for: it has memory and a state for each.
int most_parts() {
  static const int most = [] {
    const auto describe = reinterpret_cast<const char* (*)()>(blas_symbol("openblas_get_config"));
    const char* const name = "MAX_THREADS=";
    const char* const found = describe ? std::strstr(describe(), name) : nullptr;
    return found ? std::atoi(found + std::strlen(name)) : 0;
  }();
  return most;
}

/// OpenBLAS's own threads have the first numbers, and work at LU factorisations of other threads meanwhile. So
/// products' parts have the last.
int first_number(int parts) { return std::max(0, most_parts() - parts); }

/// The threads that OpenBLAS has, which may be more than it uses.
int own_threads() {
  const auto* const started = static_cast<const int*>(blas_symbol("blas_num_threads"));
  return std::max(blas_num_threads().value_or(0), started ? *started : 0);
}

/// Puts OpenBLAS's own threads back, unless the program has had its own way since.
void stop_sharing() {
  is_shared = false;
  if (!current() || *current() == run_blas_parts) setter()(nullptr);
}

/// Whether OpenBLAS's own threads ran before the fork. By who holds blas_products_mutex().
bool own_threads_ran = false;

/// Before a fork OpenBLAS ends its threads, and frees the memory that parts have.
void hold_products() {
  blas_products_mutex().lock();
  own_threads_ran = blas_threads_run();
}

/// After it, in the parent, products that find no threads would start them, and free that memory once more.
void let_products_go_on() {
  if (is_shared && own_threads_ran) start_blas_threads();
  blas_products_mutex().unlock();
}

void forget_in_child() {
  blas_products_mutex().unlock();
  if (is_shared) stop_sharing();
}

}  // namespace

bool can_share_openmp_team() {
  return blas_library() == BlasLibrary::kOpenBlas && setter() && openmp().found() && getpid() == loaded_in &&
         (!current() || *current() == nullptr || *current() == run_blas_parts) && 2 * own_threads() <= most_parts();
}

bool share_openmp_team(bool share) {
  if (!share) {
    const std::lock_guard<std::mutex> lock(blas_products_mutex());
    if (is_shared) stop_sharing();
    return true;
  }
  if (!can_share_openmp_team()) return false;
  static const int error = pthread_atfork(hold_products, let_products_go_on, forget_in_child);
  if (error != 0) return false;
  stay_loaded();
  try {
    helpers().start(blas_num_threads().value_or(1) - 1);
  } catch (const std::system_error&) {
    return is_shared;
  }
  const std::lock_guard<std::mutex> lock(blas_products_mutex());
  sharing_thread = std::this_thread::get_id();
  sharing_threads = openmp().max_threads();
  start_blas_threads();  // or the first products would, and free the memory that parts have
  is_shared = true;
  setter()(run_blas_parts);
  return true;
}

bool openmp_team_is_shared() { return is_shared; }

void run_blas_parts(int /*sync*/, RunBlasPart run, int parts, std::size_t part_bytes, void* first,
                    int argument) noexcept {
  Product product{run, parts, part_bytes, static_cast<char*>(first), argument, first_number(parts)};
  const std::lock_guard<std::mutex> lock(blas_products_mutex());
  if (parts == 1) return product.run_part(0);
  const int threads = team_for(parts);
  if (threads >= parts) openmp().parallel(enter_team, &product, static_cast<unsigned>(threads), 0);
  if (product.begun) return;
  try {
    helpers().run(product);
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "torchfeed: no thread can be started for a product of matrices: %s\n", error.what());
    std::abort();
  }
}

}  // namespace torchfeed::threading
