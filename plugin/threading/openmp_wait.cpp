#include <torchfeed/plugin/threading/openmp_wait.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <torchfeed/plugin/threading/openmp_team.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed::threading {
namespace {

/// Where the machine has far more CPUs than this process may use, a sleeping thread for each is too high a price, and a
/// limit on threads may be near, which libgomp answers by ending the process.
constexpr int kMostParkedThreads = 64;

using CountCpus = int (*)();
CountCpus omp_get_num_procs() { return reinterpret_cast<CountCpus>(dlsym(RTLD_DEFAULT, "omp_get_num_procs")); }

/// libgomp compares with the CPUs that it found while it was loaded, and tells those of the mask as it is now. It is
/// loaded before this library is, and threads are bound later.
const int cpus_at_load = [] {
  const CountCpus count = omp_get_num_procs();
  return count ? count() : 0;
}();

void count_thread(void* counter) { static_cast<std::atomic<int>*>(counter)->fetch_add(1); }

/// A thread that has run a region and sleeps, and with it its team, until the end of the scope. libgomp ends the team
/// with the thread, and takes its threads but the first, which it never counted, from the number that it manages.
class ParkedTeam {
 public:
  explicit ParkedTeam(int team) {
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    std::promise<int> ready;
    std::future<int> size = ready.get_future();
    try {
      thread_ = std::thread([team, ready = std::move(ready), end = end_.get_future()]() mutable {
        std::atomic<int> counter{0};
        gomp_parallel()(count_thread, &counter, static_cast<unsigned>(team), 0);
        ready.set_value(counter.load());
        end.wait();
      });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &previous, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    threads_ = size.get();
  }
  ~ParkedTeam() {
    end_.set_value();
    thread_.join();
  }

  /// With the thread that made the team.
  int threads() const { return threads_; }

 private:
  std::promise<void> end_;
  std::thread thread_;
  int threads_ = 0;
};

/// Never destroyed, as a process that ends must not wait for its threads.
struct ParkedTeams {
  std::mutex mutex;
  std::vector<std::unique_ptr<ParkedTeam>> teams;
  pid_t owner = getpid();

  int threads() const {
    int sum = 0;
    for (const auto& team : teams) sum += team->threads();
    return sum;
  }
};

ParkedTeams& parked_teams() {
  static auto* const teams = new ParkedTeams;
  return *teams;
}

}  // namespace

OpenMpSpinning shorten_openmp_spinning(int team) {
  ParkedTeams& parked = parked_teams();
  const std::lock_guard<std::mutex> lock(parked.mutex);
  OpenMpSpinning result;
  result.parked_threads = parked.threads();
  if (getpid() != parked.owner) {
    result.shortened = !parked.teams.empty();  // libgomp's count was inherited, though the threads were not
    result.reason = result.shortened ? "as in the process that forked this one" : "it is as in the process that forked";
    return result;
  }
  for (const char* name : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}) {
    if (const char* value = std::getenv(name)) {
      result.reason = std::string(name) + "=" + value + " decides";
      return result;
    }
  }
  // LLVM's and Intel's runtimes answer to libgomp's names as well.
  if (!gomp_parallel() || cpus_at_load < 1 || dlsym(RTLD_DEFAULT, "__kmpc_fork_call")) {
    result.reason = "the OpenMP library is not libgomp";
    return result;
  }
  if (team < 2) {
    result.reason = "one thread has nobody to wait for";
    return result;
  }
  // libgomp counts the main thread, its team's others and ours but for the first of each team.
  const int added = parked.threads() - static_cast<int>(parked.teams.size());
  const int missing = cpus_at_load + 1 - team - added;
  if (missing > kMostParkedThreads) {
    result.reason = "it would take " + std::to_string(missing + 1) + " sleeping threads on this machine";
    return result;
  }
  if (missing > 0) {
    parked.teams.push_back(std::make_unique<ParkedTeam>(missing + 1));
    const int took_part = parked.teams.back()->threads();
    if (took_part < missing + 1) {
      parked.teams.pop_back();
      result.reason = "libgomp gave " + std::to_string(took_part) + " of " + std::to_string(missing + 1) + " threads";
      return result;
    }
  }
  result.parked_threads = parked.threads();
  result.shortened = true;
  result.reason = "so that waiting threads leave the core to BLAS and loader workers";
  return result;
}

int parked_openmp_threads() {
  ParkedTeams& parked = parked_teams();
  const std::lock_guard<std::mutex> lock(parked.mutex);
  return parked.threads();
}

void restore_openmp_spinning(int keep) {
  ParkedTeams& parked = parked_teams();
  const std::lock_guard<std::mutex> lock(parked.mutex);
  if (getpid() != parked.owner) return;
  while (!parked.teams.empty() && parked.threads() > keep) parked.teams.pop_back();
}

}  // namespace torchfeed::threading
