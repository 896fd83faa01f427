#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/process_threads.h>

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

namespace torchfeed::threading {
namespace {

constexpr int kInitialMaskCpus = 1024;
constexpr int kLargestMaskCpus = 1 << 20;

struct CpuSetFree {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, CpuSetFree>;

/// OpenMP's places as the loaded runtime tells them; empty without a runtime or without a binding.
std::vector<std::vector<int>> openmp_places() {
  const auto count = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_num_places"));
  const auto size = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "omp_get_place_num_procs"));
  const auto read = reinterpret_cast<void (*)(int, int*)>(dlsym(RTLD_DEFAULT, "omp_get_place_proc_ids"));
  std::vector<std::vector<int>> places;
  if (!count || !size || !read) return places;
  // GOMP_CPU_AFFINITY may name CPUs that the machine has not.
  const int configured = static_cast<int>(sysconf(_SC_NPROCESSORS_CONF));
  for (int place = 0; place < count(); ++place) {
    std::vector<int> cpus(static_cast<size_t>(std::max(0, size(place))));
    if (cpus.empty()) continue;
    read(place, cpus.data());
    std::erase_if(cpus, [&](int cpu) { return cpu < 0 || cpu >= configured; });
    std::sort(cpus.begin(), cpus.end());
    if (!cpus.empty()) places.push_back(std::move(cpus));
  }
  return places;
}

/// What a PinnedProcess has changed.
struct Pinned {
  const PinnedProcess* owner;
  std::vector<int> cpus;
  std::vector<int> before;
};

/// The last made at the end. Never destroyed, as threads may read it while the process ends.
struct PinnedList {
  std::mutex mutex;
  std::vector<Pinned> entries;
};

PinnedList& pinned() {
  static auto* const list = new PinnedList;
  return *list;
}

std::vector<int> in_order(std::vector<int> numbers) {
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

}  // namespace

std::vector<int> thread_cpus(pid_t thread) {
  // The kernel answers EINVAL where the buffer is narrower than its own mask.
  for (int width = kInitialMaskCpus; width <= kLargestMaskCpus; width *= 2) {
    const CpuSet set(CPU_ALLOC(width));
    if (!set) throw std::system_error(ENOMEM, std::generic_category(), "CPU_ALLOC");
    const size_t bytes = CPU_ALLOC_SIZE(width);
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(thread, bytes, set.get()) == 0) {
      std::vector<int> cpus;
      for (int cpu = 0; cpu < width; ++cpu)
        if (CPU_ISSET_S(cpu, bytes, set.get())) cpus.push_back(cpu);
      return cpus;
    }
    if (errno != EINVAL) break;
  }
  throw std::system_error(errno, std::generic_category(), "sched_getaffinity");
}

std::vector<int> available_cpus() {
  std::vector<int> mask = thread_cpus();
  {
    const std::lock_guard<std::mutex> lock(pinned().mutex);
    for (auto pin = pinned().entries.rbegin(); pin != pinned().entries.rend(); ++pin)
      if (pin->cpus == mask) mask = pin->before;
  }
  const auto places = openmp_places();
  if (std::find(places.begin(), places.end(), mask) == places.end()) return mask;
  std::vector<int> all;
  for (const auto& place : places) all.insert(all.end(), place.begin(), place.end());
  return in_order(std::move(all));
}

bool bind_current_thread(const std::vector<int>& cpus) { return bind_thread(0, cpus); }

namespace {

/// What the kernel grants may be fewer CPUs than these, which counts as success to it.
bool set_mask(pid_t thread, const std::vector<int>& cpus) {
  const int width = std::max(kInitialMaskCpus, *std::max_element(cpus.begin(), cpus.end()) + 1);
  const CpuSet set(CPU_ALLOC(width));
  if (!set) return false;
  const size_t bytes = CPU_ALLOC_SIZE(width);
  CPU_ZERO_S(bytes, set.get());
  for (const int cpu : cpus) CPU_SET_S(cpu, bytes, set.get());
  return sched_setaffinity(thread, bytes, set.get()) == 0;
}

}  // namespace

void move_current_thread(int cpu) {
  const std::vector<int> before = thread_cpus();
  if (std::binary_search(before.begin(), before.end(), cpu) && set_mask(0, {cpu})) set_mask(0, before);
}

bool bind_thread(pid_t thread, const std::vector<int>& cpus) {
  if (cpus.empty() || *std::min_element(cpus.begin(), cpus.end()) < 0) return false;
  const std::vector<int> before = thread_cpus(thread);
  if (!set_mask(thread, cpus)) return false;
  if (thread_cpus(thread) == in_order(cpus)) return true;
  set_mask(thread, before);
  return false;
}

PinnedProcess::PinnedProcess(const std::vector<int>& cpus)
    : owner_(getpid()), cpus_(in_order(cpus)), before_(thread_cpus()) {
  for (const pid_t thread : process_threads()) {
    try {
      if (thread_cpus(thread) != before_) continue;
      bind_thread(thread, cpus_) ? bound_.push_back(thread) : void(++refused_);
    } catch (const std::system_error&) {
      // It has ended meanwhile.
    }
  }
  const std::lock_guard<std::mutex> lock(pinned().mutex);
  pinned().entries.push_back({this, cpus_, before_});
}

PinnedProcess::~PinnedProcess() { restore(); }

int PinnedProcess::restore() {
  if (getpid() != owner_) return 0;
  {
    const std::lock_guard<std::mutex> lock(pinned().mutex);
    if (std::erase_if(pinned().entries, [this](const Pinned& pin) { return pin.owner == this; }) == 0) return 0;
  }
  int refused = 0;
  // All threads, as those that were started meanwhile have inherited the mask.
  for (const pid_t thread : process_threads()) {
    try {
      if (thread_cpus(thread) == cpus_ && !bind_thread(thread, before_)) ++refused;
    } catch (const std::system_error&) {
      // It has ended meanwhile.
    }
  }
  return refused;
}

}  // namespace torchfeed::threading
