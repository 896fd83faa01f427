#include <torchfeed/plugin/loader/futex.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <new>
#include <system_error>

// Memory orders. A slot's contents are plain memory; they change hands by its word alone: the giver stores the word
// with release (or stronger), the taker reads it with acquire. Two places need more, as each of two parties first
// writes one thing and then reads the other's (Dekker): there all four accesses are seq_cst, marked SYNC(sleep) and
// SYNC(await). Fences would do, but ThreadSanitizer cannot see them.

namespace torchfeed::loader {
namespace {

constexpr std::uint64_t kNobody = 0;
constexpr std::uint64_t kAnyTicket = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kMostReservedBytes = std::uint64_t{16} << 40;  // of 128 TiB of addresses
constexpr std::uint64_t kSmallestSlotBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kLargestPageBytes = 64 * 1024;  // of the systems that torchfeed runs on
// A worker that nobody wakes looks again now and then, so that a lost wake costs time and no more.
constexpr std::chrono::seconds kLongestSleep{1};

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

/// Bytes of addresses a slot: the whole budget, as any one batch may take it, unless limits stand against it.
std::uint64_t slot_bytes_for(std::uint32_t slot_count, std::uint64_t budget_bytes, std::uint64_t control_bytes) {
  std::uint64_t most = kMostReservedBytes;
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    most = std::min<std::uint64_t>(most, limit.rlim_cur);
  }
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    most = std::min<std::uint64_t>(most, limit.rlim_cur / 4);
  }
  const std::uint64_t share = most > control_bytes ? (most - control_bytes) / slot_count : 0;
  const std::uint64_t bytes =
      std::min(round_up(budget_bytes, kLargestPageBytes), share / kLargestPageBytes * kLargestPageBytes);
  return std::max(bytes, kLargestPageBytes);
}

struct Layout {
  std::uint64_t words;
  std::uint64_t slots;
  std::uint64_t control_bytes;

  explicit Layout(std::uint32_t slot_count)
      : words(round_up(sizeof(RingHeader), 64)),
        slots(round_up(words + slot_count * sizeof(std::atomic<std::uint64_t>), 64)),
        control_bytes(round_up(slots + slot_count * sizeof(Slot), kLargestPageBytes)) {}
};

/// A limit that slot_bytes_for cannot see (a container's, a sanitizer's) shows only when mapping: halve until it fits.
std::unique_ptr<Segment> reserve_segment(std::uint64_t control_bytes, std::uint32_t slot_count,
                                         std::uint64_t& slot_bytes) {
  for (;;) {
    try {
      return std::make_unique<Segment>(control_bytes + slot_count * slot_bytes);
    } catch (const std::system_error&) {
      if (slot_bytes <= kSmallestSlotBytes) {
        throw;
      }
      slot_bytes = std::max(round_up(slot_bytes / 2, kLargestPageBytes), kSmallestSlotBytes);
    }
  }
}

}  // namespace

SlotRing::SlotRing(std::uint32_t slot_count, std::uint64_t budget_bytes, std::uint32_t spins) {
  const Layout layout(slot_count);
  std::uint64_t slot_bytes = slot_bytes_for(slot_count, budget_bytes, layout.control_bytes);
  segment_ = reserve_segment(layout.control_bytes, slot_count, slot_bytes);
  if (const int error = segment_->commit(0, layout.control_bytes); error != 0) {
    throw std::system_error(error, std::generic_category(), "torchfeed: shared memory for the loader's state");
  }
  std::byte* base = segment_->data();
  header_ = new (base) RingHeader{};
  header_->slot_count = slot_count;
  header_->spins.store(spins, std::memory_order_relaxed);
  for (auto& cpu : header_->worker_cpu) {
    cpu.store(-1, std::memory_order_relaxed);
  }
  header_->trainer_cpu.store(::sched_getcpu(), std::memory_order_relaxed);
  header_->slot_bytes = slot_bytes;
  header_->budget_bytes = budget_bytes;
  header_->most_deaths = kMaxDeaths;
  words_ = reinterpret_cast<std::atomic<std::uint64_t>*>(base + layout.words);
  slots_ = reinterpret_cast<Slot*>(base + layout.slots);
  payloads_ = base + layout.control_bytes;
  for (std::uint32_t i = 0; i < slot_count; ++i) {
    new (&words_[i]) std::atomic<std::uint64_t>(SlotWord{}.pack());
    new (&slots_[i]) Slot{};
  }
}

// ---- Trainer ----

std::optional<std::uint32_t> SlotRing::find_free(std::uint64_t first_ticket) noexcept {
  for (std::uint32_t i = 0; i < size(); ++i) {
    const SlotWord current = word(i);
    if (current.state == SlotState::kFree) {
      return i;
    }
    if (current.ticket >= first_ticket) {
      continue;
    }
    if (current.state == SlotState::kDone || current.state == SlotState::kFailed) {
      free(i);
      return i;
    }
    if (cancel(i)) {
      return i;
    }
  }
  return std::nullopt;
}

void SlotRing::post(std::uint32_t index, std::uint64_t ticket, std::uint16_t worker) noexcept {
  slots_[index].deaths = 0;
  slots_[index].designated = worker;
  post_word(index, ticket);
}

void SlotRing::post_again(std::uint32_t index) noexcept { post_word(index, word(index).ticket); }

/// Trainer or fork server: makes the slot posted, and wakes who may claim it.
void SlotRing::post_word(std::uint32_t index, std::uint64_t ticket) noexcept {
  const std::uint16_t worker = slots_[index].designated;
  // SYNC(sleep): before it is read who sleeps.
  words_[index].store(SlotWord{SlotState::kPosted, worker, ticket}.pack(), std::memory_order_seq_cst);
  if (worker == kAnyWorker) {
    wake_worker();
  } else {
    wake_if_asleep(worker);
  }
}

bool SlotRing::cancel(std::uint32_t index) noexcept {
  std::uint64_t packed = words_[index].load(std::memory_order_acquire);
  SlotWord next = SlotWord::unpack(packed);
  if (next.state != SlotState::kPosted) {
    return false;
  }
  next.state = SlotState::kFree;
  return words_[index].compare_exchange_strong(packed, next.pack(), std::memory_order_acq_rel);
}

bool SlotRing::any_result(std::optional<std::uint32_t> index, std::uint64_t first_ticket,
                          std::size_t known) const noexcept {
  // SYNC(await): these loads come after `awaited` was stored; word() alone would be acquire only.
  const auto has = [this](std::uint32_t i, std::uint64_t ticket) {
    const auto word = SlotWord::unpack(words_[i].load(std::memory_order_seq_cst));
    return (word.state == SlotState::kDone || word.state == SlotState::kFailed) && word.ticket >= ticket;
  };
  if (index) {
    return has(*index, 0);
  }
  std::size_t results = 0;
  for (std::uint32_t i = 0; i < size() && results <= known; ++i) {
    results += has(i, first_ticket) ? 1 : 0;
  }
  return results > known;
}

bool SlotRing::has_free() const noexcept {
  for (std::uint32_t i = 0; i < size(); ++i) {
    if (word(i).state == SlotState::kFree) {
      return true;
    }
  }
  return false;
}

void SlotRing::wait_for_result(std::optional<std::uint32_t> index, std::uint64_t first_ticket,
                               std::chrono::nanoseconds timeout, std::size_t known, Due due) noexcept {
  const std::uint32_t spins = header_->spins.load(std::memory_order_relaxed);
  for (std::uint32_t spin = 0; spin < spins; ++spin) {
    if (any_result(index, first_ticket, known)) {
      return;
    }
    spin_pause();
  }
  const std::uint32_t key = header_->trainer_wake.load(std::memory_order_acquire);
  const std::uint64_t wish = index ? word(*index).ticket + 1 : kAnyTicket;
  header_->trainer_due.store(static_cast<std::uint32_t>(due), std::memory_order_relaxed);  // before `awaited`
  header_->awaited.store(wish, std::memory_order_seq_cst);  // SYNC(await): before any_result() reads the words
  if (!any_result(index, first_ticket, known) && !is_broken()) {
    futex_wait(header_->trainer_wake, key, timeout);
  }
  header_->awaited.store(kNobody, std::memory_order_relaxed);
  header_->trainer_due.store(static_cast<std::uint32_t>(Due::kNot), std::memory_order_relaxed);
}

void SlotRing::wait_for_workers_to_leave(std::chrono::nanoseconds timeout) noexcept {
  const std::uint32_t key = header_->trainer_wake.load(std::memory_order_acquire);
  if (header_->alive_workers.load(std::memory_order_acquire) != 0) {
    futex_wait(header_->trainer_wake, key, timeout);
  }
}

void SlotRing::step(std::uint32_t index, SlotState to) noexcept {
  SlotWord next = word(index);
  next.state = to;
  words_[index].store(next.pack(), std::memory_order_release);
}

void SlotRing::wake_all_workers() noexcept {
  for (std::uint32_t group = 0; group < kMaxWorkers / 64; ++group) {
    std::uint64_t mask = header_->sleeping[group].load(std::memory_order_seq_cst);
    for (; mask != 0; mask &= mask - 1) {
      wake_if_asleep(group * 64 + static_cast<std::uint32_t>(std::countr_zero(mask)));
    }
  }
}

// ---- Worker ----

bool SlotRing::set_awake(std::uint32_t worker) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << (worker % 64);
  return (header_->sleeping[worker / 64].fetch_and(~bit, std::memory_order_seq_cst) & bit) != 0;
}

bool SlotRing::wake_if_asleep(std::uint32_t worker) noexcept {
  if (!set_awake(worker)) {
    return false;
  }
  header_->worker_wake[worker].fetch_add(1, std::memory_order_release);
  futex_wake(header_->worker_wake[worker], 1);
  return true;
}

/// Trainer, worker or fork server: wakes one worker that sleeps, the lowest id first, so that few workers stay warm
/// where few are enough.
void SlotRing::wake_worker() noexcept {
  for (std::uint32_t group = 0; group < kMaxWorkers / 64; ++group) {
    // SYNC(sleep): read after the slot was posted.
    std::uint64_t mask = header_->sleeping[group].load(std::memory_order_seq_cst);
    for (; mask != 0; mask &= mask - 1) {
      if (wake_if_asleep(group * 64 + static_cast<std::uint32_t>(std::countr_zero(mask)))) {
        return;
      }
    }
    if (group * 64 + 64 >= header_->target_workers.load(std::memory_order_relaxed)) {
      return;
    }
  }
}

std::optional<std::uint32_t> SlotRing::claim(std::uint32_t worker) noexcept {
  for (;;) {
    std::uint32_t best = size();
    std::uint64_t best_word = 0;
    std::uint64_t best_ticket = kAnyTicket;
    const auto look = [&](std::uint32_t end) {
      for (std::uint32_t i = 0; i < end; ++i) {
        const std::uint64_t packed = words_[i].load(std::memory_order_seq_cst);  // SYNC(sleep)
        const SlotWord current = SlotWord::unpack(packed);
        if (current.state == SlotState::kPosted && current.ticket < best_ticket &&
            (current.owner == kAnyWorker || current.owner == worker)) {
          best = i;
          best_word = packed;
          best_ticket = current.ticket;
        }
      }
    };
    look(size());
    if (best == size()) {
      return std::nullopt;
    }
    // While this looked, an older request may have come to a slot that it had passed. Whoever sees a request sees all
    // that were posted before it.
    look(best);
    const SlotWord taken{SlotState::kTaken, static_cast<std::uint16_t>(worker), best_ticket};
    if (words_[best].compare_exchange_strong(best_word, taken.pack(), std::memory_order_acq_rel)) {
      return best;
    }
  }
}

/// Whether there is a request that any worker may claim.
bool SlotRing::has_posted() const noexcept {
  for (std::uint32_t i = 0; i < size(); ++i) {
    const SlotWord current = word(i);
    if (current.state == SlotState::kPosted && current.owner == kAnyWorker) {
      return true;
    }
  }
  return false;
}

bool SlotRing::must_leave(std::uint32_t worker) const noexcept {
  return header_->stop.load(std::memory_order_seq_cst) != 0 ||
         worker >= header_->target_workers.load(std::memory_order_seq_cst);
}

std::optional<std::uint32_t> SlotRing::wait_for_work(std::uint32_t worker) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << (worker % 64);
  std::uint32_t spins = header_->spins.load(std::memory_order_relaxed);
  for (;;) {
    if (must_leave(worker)) {
      return std::nullopt;
    }
    if (const auto index = claim(worker)) {
      return index;
    }
    if (spins > 0) {
      --spins;
      spin_pause();
      continue;
    }
    const std::uint32_t key = header_->worker_wake[worker].load(std::memory_order_acquire);
    // SYNC(sleep): before claim() reads the words, and before must_leave() reads the trainer's wishes.
    header_->sleeping[worker / 64].fetch_or(bit, std::memory_order_seq_cst);
    const auto index = claim(worker);
    if (!index && !must_leave(worker)) {
      futex_wait(header_->worker_wake[worker], key, kLongestSleep);
    }
    const bool chosen = !set_awake(worker);
    if (index) {
      // Somebody spent a wake on this worker, which was awake already: pass it on if it was meant for another slot.
      if (chosen && has_posted()) {
        wake_worker();
      }
      return index;
    }
  }
}

void SlotRing::finish(std::uint32_t index, SlotState result) noexcept {
  SlotWord next = word(index);
  const std::uint64_t ticket = next.ticket;
  next.state = result;
  words_[index].store(next.pack(), std::memory_order_seq_cst);  // SYNC(await): before `awaited` is read
  std::uint64_t wish = header_->awaited.load(std::memory_order_seq_cst);
  if (wish == kAnyTicket || wish == ticket + 1) {
    if (header_->awaited.compare_exchange_strong(wish, kNobody, std::memory_order_acq_rel)) {
      auto due = static_cast<std::uint32_t>(Due::kWhenWoken);
      header_->trainer_due.compare_exchange_strong(due, static_cast<std::uint32_t>(Due::kNow),
                                                   std::memory_order_relaxed);
      wake_trainer();
    }
  }
  if (header_->trainer_due.load(std::memory_order_relaxed) == static_cast<std::uint32_t>(Due::kNow)) {
    ::sched_yield();
  }
}

// ---- Fork server ----

void SlotRing::wake_trainer() noexcept {
  header_->trainer_wake.fetch_add(1, std::memory_order_release);
  futex_wake(header_->trainer_wake, 1);
}

bool SlotRing::holds_slot(std::uint32_t worker) const noexcept {
  for (std::uint32_t i = 0; i < size(); ++i) {
    const SlotWord current = word(i);
    if (current.state == SlotState::kTaken && current.owner == worker) {
      return true;
    }
  }
  return false;
}

void SlotRing::recover(std::uint32_t worker, int signal) noexcept {
  set_awake(worker);
  header_->worker_cpu[worker].store(-1, std::memory_order_relaxed);
  for (std::uint32_t i = 0; i < size(); ++i) {
    const SlotWord current = word(i);
    if (current.state != SlotState::kTaken || current.owner != worker) {
      continue;
    }
    if (current.ticket < header_->first_ticket.load(std::memory_order_relaxed)) {
      free(i);
      wake_trainer();  // it may wait for a slot
      continue;
    }
    Slot& slot = slots_[i];
    slot.produce_nanoseconds = 0;
    if (++slot.deaths < header_->most_deaths) {
      post_word(i, current.ticket);
    } else {
      slot.error = ErrorRecord{};
      slot.error.worker = static_cast<std::int32_t>(worker);
      slot.error.signal = signal;
      slot.error.deaths = slot.deaths;
      finish(i, SlotState::kFailed);
    }
  }
  // The dead worker may have taken a wake with it, whatever it held.
  if (has_posted()) {
    wake_worker();
  }
}

}  // namespace torchfeed::loader
