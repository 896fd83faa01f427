// SlotRing's memory: what slots take of the budget and of the system, and give back.
#include <torchfeed/plugin/loader/slot_ring.h>

#include <c10/util/Exception.h>

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

namespace torchfeed::loader {
namespace {

constexpr std::uint64_t kMostSlackBytes = std::uint64_t{1} << 20;
// What try_reserve() answers where others have the budget: no errno.
constexpr int kBudgetTaken = -1;
// Between two looks for memory that others have.
constexpr std::chrono::microseconds kShortestPause{100};
constexpr std::chrono::microseconds kLongestPause{5000};

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

std::uint64_t page_bytes() {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

template <typename... Parts>
[[noreturn]] void throw_no_memory_left(std::uint64_t bytes_wanted, const Parts&... parts) {
  throw NoMemoryLeft({__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, c10::str(parts...), bytes_wanted);
}

}  // namespace

std::uint64_t SlotRing::charged_bytes() const noexcept {
  // A page of each slot is beside the budget: many requests that wait must not keep one large batch from being made.
  const std::uint64_t page = page_bytes();
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < size(); ++i) {
    const std::uint64_t charged = charged_bytes(i);
    sum += charged - std::min(charged, page);
  }
  return sum;
}

/// Claims first and adds up then: two that do so at once may both see too much and refuse, and so both try again, but
/// never do both see too little.
bool SlotRing::charge(std::uint32_t index, std::uint64_t bytes) noexcept {
  constexpr int kTries = 4;
  Slot& slot = slots_[index];
  const std::uint64_t before = slot.committed.load(std::memory_order_relaxed);
  for (int i = 0; i < kTries; ++i) {
    slot.charged.store(bytes, std::memory_order_seq_cst);
    if (charged_bytes() <= header_->budget_bytes) {
      return true;
    }
    slot.charged.store(before, std::memory_order_seq_cst);
    for (std::uint32_t yields = 0; yields <= index % 8; ++yields) {
      ::sched_yield();  // not all for the same time, so that one of two gets it
    }
  }
  return false;
}

/// 0, kBudgetTaken, or the errno that tells why the system has no memory. `bytes` are within the budget.
int SlotRing::try_reserve(std::uint32_t index, std::uint64_t bytes) noexcept {
  Slot& slot = slots_[index];
  const std::uint64_t committed = slot.committed.load(std::memory_order_relaxed);
  if (bytes <= committed) {
    return 0;
  }
  // Some more than asked for, so that a batch that grows tensor by tensor asks the kernel a few times only.
  const std::uint64_t page = page_bytes();
  const std::uint64_t exact = round_up(bytes, page);
  const std::uint64_t generous = committed + std::min(committed / 2, kMostSlackBytes);
  std::uint64_t wanted = std::min(std::max(exact, round_up(generous, page)), header_->slot_bytes);
  if (!charge(index, wanted)) {
    wanted = exact;
    if (!charge(index, wanted)) {
      return kBudgetTaken;
    }
  }
  const std::uint64_t offset = static_cast<std::uint64_t>(payload(index) - segment_->data());
  if (const int error = segment_->commit(offset + committed, wanted - committed); error != 0) {
    segment_->release(offset + committed, wanted - committed);
    slot.charged.store(committed, std::memory_order_seq_cst);
    return error;
  }
  slot.committed.store(wanted, std::memory_order_relaxed);
  return 0;
}

void SlotRing::check_fits(std::uint64_t bytes) const {
  if (bytes > most_bytes()) {
    throw NeverFits(
        {__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)},
        c10::str("torchfeed: a batch does not fit into shared memory: expected at most ", most_bytes(),
                 " bytes (shared_memory_budget is ", header_->budget_bytes, "), got ", bytes, " bytes or more"));
  }
}

void SlotRing::throw_no_memory(std::uint32_t index, std::uint64_t bytes, int error) const {
  if (error == kBudgetTaken) {
    const std::uint64_t committed = slots_[index].committed.load(std::memory_order_relaxed);
    throw_no_memory_left(bytes, "torchfeed: shared memory is used up: expected at most ", header_->budget_bytes,
                         " bytes in all batches together (shared_memory_budget), got ",
                         charged_bytes() + round_up(bytes, page_bytes()) - committed, " with a batch of ", bytes,
                         " bytes or more");
  }
  throw_no_memory_left(bytes, "torchfeed: the system has no shared memory for a batch of ", bytes,
                       " bytes or more, beside ", charged_bytes(), " bytes of others: ", std::strerror(error));
}

void SlotRing::reserve(std::uint32_t index, std::uint64_t bytes) {
  check_fits(bytes);
  if (const int error = try_reserve(index, bytes); error != 0) {
    throw_no_memory(index, bytes, error);
  }
}

void SlotRing::reserve_waiting(std::uint32_t index, std::uint64_t bytes) {
  check_fits(bytes);
  for (auto pause = kShortestPause;; pause = std::min(2 * pause, kLongestPause)) {
    const bool alone = charged_bytes() == 0;  // looked at first, so that what others give back meanwhile is tried for
    const int error = try_reserve(index, bytes);
    if (error == 0) {
      return;
    }
    const bool hopeless = alone && error != kBudgetTaken;
    if (hopeless || header_->stop.load(std::memory_order_relaxed) != 0) {
      throw_no_memory(index, bytes, error);
    }
    // Each time again, as the trainer may have looked a moment too early.
    header_->memory_wanted.store(1, std::memory_order_seq_cst);
    wake_trainer();
    std::this_thread::sleep_for(pause);
  }
}

void SlotRing::shrink(std::uint32_t index, std::uint64_t bytes) noexcept {
  Slot& slot = slots_[index];
  const std::uint64_t committed = slot.committed.load(std::memory_order_relaxed);
  const std::uint64_t kept = std::min(round_up(bytes, page_bytes()), committed);
  // A worker that died while the slot grew has left a charge, and pages, beyond what is committed.
  const std::uint64_t had = std::max(committed, charged_bytes(index));
  if (kept < had) {
    // In this order, so that who looks in between sees too much, never too little.
    slot.committed.store(kept, std::memory_order_relaxed);
    segment_->release(static_cast<std::uint64_t>(payload(index) - segment_->data()) + kept, had - kept);
    slot.charged.store(kept, std::memory_order_seq_cst);
  }
}

}  // namespace torchfeed::loader
