#include <torchfeed/plugin/loader/worker_place.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <sched.h>

#include <algorithm>
#include <exception>

namespace torchfeed::loader {
namespace {

constexpr int kBatchesBetweenLooks = 32;
// Looks and moves must cost next to nothing where they are in vain, as other threads are on these CPUs as well.
constexpr std::chrono::milliseconds kBetweenLooks{1};
// Of batches that take longer, Linux finds the place.
constexpr std::chrono::microseconds kSmallBatch{200};
constexpr std::int32_t kNowhere = -1;

}  // namespace

WorkerPlace::WorkerPlace(SlotRing& ring, int id, Clock::time_point now) noexcept
    : header_(ring.header()), id_(static_cast<std::uint32_t>(id)), looked_(now) {
  try {
    cpus_ = threading::thread_cpus();
  } catch (const std::exception&) {
    return;
  }
  if (cpus_.size() < 2) {
    return;
  }
  // Worker 0 beside the trainer's, and so on.
  const auto trainer = std::find(cpus_.begin(), cpus_.end(), header_.trainer_cpu.load(std::memory_order_relaxed));
  const std::size_t next = trainer == cpus_.end() ? 0 : static_cast<std::size_t>(trainer - cpus_.begin()) + 1;
  move_to(cpus_[(next + id_) % cpus_.size()]);
}

WorkerPlace::~WorkerPlace() { header_.worker_cpu[id_].store(kNowhere, std::memory_order_relaxed); }

void WorkerPlace::look(Clock::time_point now) noexcept {
  if (++batches_ < kBatchesBetweenLooks || now - looked_ < kBetweenLooks) {
    return;
  }
  const bool small = now - looked_ < batches_ * kSmallBatch;
  batches_ = 0;
  looked_ = now;
  if (small && cpus_.size() > 1) {
    leave_crowd();
  }
}

/// Of this loader, how many are on `cpu`: workers that are not asleep, and the trainer if it spins.
int WorkerPlace::crowd(int cpu) const noexcept {
  const bool trainer =
      header_.spins.load(std::memory_order_relaxed) != 0 && header_.trainer_cpu.load(std::memory_order_relaxed) == cpu;
  int count = trainer ? 1 : 0;
  const std::uint32_t workers = std::min(header_.target_workers.load(std::memory_order_relaxed), kMaxWorkers);
  for (std::uint32_t worker = 0; worker < workers; ++worker) {
    const bool asleep = (header_.sleeping[worker / 64].load(std::memory_order_relaxed) >> (worker % 64) & 1) != 0;
    count += !asleep && header_.worker_cpu[worker].load(std::memory_order_relaxed) == cpu ? 1 : 0;
  }
  return count;
}

void WorkerPlace::leave_crowd() noexcept {
  const int here = ::sched_getcpu();
  header_.worker_cpu[id_].store(here, std::memory_order_relaxed);
  const int most = crowd(here) - 2;  // elsewhere, for a move to be worth it
  if (most < 0) {
    return;
  }
  try {
    cpus_ = threading::thread_cpus();  // somebody may have changed it
  } catch (const std::exception&) {
    return;
  }
  const auto place = std::find_if(cpus_.begin(), cpus_.end(), [&](int cpu) { return crowd(cpu) <= most; });
  if (place != cpus_.end()) {
    move_to(*place);
  }
}

void WorkerPlace::move_to(int cpu) noexcept {
  try {
    threading::move_current_thread(cpu);
  } catch (const std::exception&) {
    return;  // nothing was changed
  }
  header_.worker_cpu[id_].store(::sched_getcpu(), std::memory_order_relaxed);
}

}  // namespace torchfeed::loader
