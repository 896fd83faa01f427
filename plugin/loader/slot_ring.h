#pragma once

#include <torchfeed/plugin/loader/segment.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace torchfeed::loader {

/// Most workers of one loader.
inline constexpr std::uint32_t kMaxWorkers = 1024;
/// A batch that has killed this many workers is given up, unless the ring's most_deaths says otherwise.
inline constexpr std::uint32_t kMaxDeaths = 3;
/// The owner of a posted slot that any worker may claim.
inline constexpr std::uint16_t kAnyWorker = 0xffff;

/// Where a slot is on the batch's way. README.md in this folder draws who may make which step.
enum class SlotState : std::uint8_t {
  kFree,    ///< the trainer's to post
  kPosted,  ///< holds a request, to be claimed by `owner` (kAnyWorker: any)
  kTaken,   ///< `owner` makes the batch; the fork server's if that worker is dead
  kDone,    ///< holds a batch, the trainer's to take
  kFailed,  ///< holds an error, the trainer's to take
  kLeased,  ///< tensors of the trainer's live in it
  kHeld,    ///< holds a request that found no memory, the trainer's to post again
};

/// State, owner and ticket of a slot in one atomic word, so that each step is one compare-and-swap and no process
/// can die half-way through it. Tickets count requests since the loader was made: the lowest one is claimed first,
/// and no word ever comes back (2^40 tickets).
struct SlotWord {
  SlotState state = SlotState::kFree;
  std::uint16_t owner = 0;
  std::uint64_t ticket = 0;

  static SlotWord unpack(std::uint64_t word) noexcept {
    return {static_cast<SlotState>(word & 0xff), static_cast<std::uint16_t>(word >> 8), word >> 24};
  }
  std::uint64_t pack() const noexcept {
    return (ticket << 24) | (static_cast<std::uint64_t>(owner) << 8) | static_cast<std::uint64_t>(state);
  }
};

/// Which batch, of which epoch, under which seed: all that its random numbers depend on.
struct BatchId {
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;
  std::uint64_t batch = 0;
};

/// Offsets, within a slot's memory, of something that BatchWriter wrote: tensors first, then the stream of values.
struct Record {
  std::uint64_t end = 0;           ///< first byte behind it
  std::uint64_t stream_begin = 0;  ///< the stream that BatchReader reads
  std::uint64_t stream_bytes = 0;
};

/// What went wrong with a batch.
struct ErrorRecord {
  static constexpr std::uint64_t kNeverFits = ~std::uint64_t{0};

  static constexpr std::size_t kTextBytes = 3584;  ///< longer texts are cut
  std::uint32_t kind;                              ///< an ErrorKind
  std::int32_t worker;
  std::int32_t signal;   ///< that ended the worker, 0 if none
  std::uint32_t deaths;  ///< workers that the batch has killed
  std::uint32_t text_bytes;
  std::uint64_t bytes_wanted;  ///< by a batch that found no memory; kNeverFits: more than there is
  char text[kTextBytes];
};

/// A slot could not grow, as other slots have the memory: may be tried again when they have given it back.
class NoMemoryLeft : public c10::Error {
 public:
  NoMemoryLeft(c10::SourceLocation where, std::string message, std::uint64_t bytes_wanted)
      : c10::Error(where, std::move(message)), bytes_wanted_(bytes_wanted) {}
  std::uint64_t bytes_wanted() const noexcept { return bytes_wanted_; }

 private:
  std::uint64_t bytes_wanted_;
};

/// A slot could not grow, whatever other slots have: it would be beyond the budget.
class NeverFits : public c10::Error {
 public:
  using c10::Error::Error;
};

/// A slot's description, in shared memory. Who may write: see each part.
struct Slot {
  // The trainer, while the slot is free.
  BatchId id;
  Record request;
  std::uint64_t position;    ///< samples that a stream's shard has given before this batch
  std::uint16_t designated;  ///< who may claim it, or kAnyWorker
  // The worker that has taken it (or, after that worker's death, the fork server).
  Record result;
  std::int64_t produce_begin;  ///< steady_clock's nanoseconds
  std::int64_t produce_nanoseconds;
  std::uint32_t deaths;
  ErrorRecord error;
  // Bytes of the slot's memory: taken from the budget, and then had from the system. Whoever may write the slot may let
  // it grow; who dies between the two leaves a charge that the next one to grow it replaces.
  std::atomic<std::uint64_t> charged;
  std::atomic<std::uint64_t> committed;
};

/// The loader's state in shared memory, the same for all processes.
struct RingHeader {
  // Constant once made.
  std::uint32_t slot_count;
  std::uint64_t slot_bytes;
  std::uint64_t budget_bytes;
  bool needs_all_workers;     ///< a worker that cannot be replaced leaves requests that no other may claim
  std::uint32_t most_deaths;  ///< a batch that has killed so many workers is given up

  // Written by the trainer.
  alignas(64) std::atomic<std::uint32_t> target_workers;  ///< workers with an id at or above it leave
  std::atomic<std::uint32_t> stop;
  std::atomic<std::uint32_t> calls;         ///< how often the fork server was told of a new target_workers
  std::atomic<std::uint64_t> first_ticket;  ///< nobody waits for batches of older ones
  std::atomic<std::uint32_t> spins;         ///< looks before sleeping; 0 where processes outnumber cores
  std::atomic<std::int32_t> trainer_cpu;    ///< where it was when it last posted a request; -1: not known

  // The trainer's wish, taken back by the worker that meets it; and a worker's, taken back by the trainer.
  alignas(64) std::atomic<std::uint64_t> awaited;
  std::atomic<std::uint32_t> trainer_wake;   ///< futex
  std::atomic<std::uint32_t> trainer_due;    ///< how urgently workers make room for the trainer: a Due
  std::atomic<std::uint32_t> memory_wanted;  ///< a worker waits for memory, which free slots may have

  // Written by the fork server.
  alignas(64) std::atomic<std::uint32_t> alive_workers;
  std::atomic<std::uint32_t> restarts;
  std::atomic<std::uint32_t> broken;  ///< no worker is left and none can be made: one more than `calls` was; 0: not so
  std::atomic<std::int32_t> broken_errno;
  std::atomic<std::int32_t> last_signal;  ///< of the worker that died last

  // One bit a worker: set by itself before it sleeps, cleared by who wakes it (or buries it).
  alignas(64) std::atomic<std::uint64_t> sleeping[kMaxWorkers / 64];
  std::atomic<std::uint32_t> worker_wake[kMaxWorkers];  ///< futexes
  std::atomic<std::int32_t> worker_cpu[kMaxWorkers];    ///< where each was when it last looked; -1: none
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free &&
              std::atomic<std::int32_t>::is_always_lock_free);
static_assert(std::is_trivially_copyable_v<Record> && std::is_trivially_copyable_v<ErrorRecord>);
static_assert(std::is_standard_layout_v<Slot> && std::is_standard_layout_v<RingHeader>);

/// The trainer and more workers than there are cores for: Linux has a thread that was woken wait until another has
/// slept or used up its time, which is longer than the workers' requests last.
enum class Due : std::uint32_t {
  kNot,
  kWhenWoken,  ///< the trainer sleeps, and wants a core as soon as it is woken
  kNow,        ///< it was woken: workers that come by yield theirs
};

/// Each process's view of the ring. Every method says who may call it.
class SlotRing {
 public:
  /// Lays out a new ring. `spins`: how often to look before sleeping.
  SlotRing(std::uint32_t slot_count, std::uint64_t budget_bytes, std::uint32_t spins);

  RingHeader& header() noexcept { return *header_; }
  const RingHeader& header() const noexcept { return *header_; }
  std::uint32_t size() const noexcept { return header_->slot_count; }
  Slot& slot(std::uint32_t index) noexcept { return slots_[index]; }
  std::byte* payload(std::uint32_t index) noexcept { return payloads_ + index * header_->slot_bytes; }
  SlotWord word(std::uint32_t index) const noexcept {
    return SlotWord::unpack(words_[index].load(std::memory_order_acquire));
  }

  /// The slot's owner: lets its memory grow to `bytes`. Throws NeverFits, with both sizes, if that is beyond the
  /// budget; NoMemoryLeft if the other slots' memory stands in the way, or the system has none.
  void reserve(std::uint32_t index, std::uint64_t bytes);

  /// The slot's owner, a worker: the same, but waits while other slots' memory stands in the way, and has the trainer
  /// give back what free slots hold. NoMemoryLeft only if the system has none while no other slot holds any, and when
  /// the workers have to leave. For owners that hold no more than their request's page meanwhile, so that each of two
  /// never waits for what the other holds.
  void reserve_waiting(std::uint32_t index, std::uint64_t bytes);

  /// Most bytes of one slot. Any process.
  std::uint64_t most_bytes() const noexcept { return std::min(header_->budget_bytes, header_->slot_bytes); }

  /// Bytes of the budget that all slots hold. Any process.
  std::uint64_t charged_bytes() const noexcept;

  /// Bytes of the budget that one slot holds. Any process.
  std::uint64_t charged_bytes(std::uint32_t index) const noexcept {
    return slots_[index].charged.load(std::memory_order_seq_cst);
  }

  /// The slot's owner: gives back what its memory has beyond `bytes`.
  void shrink(std::uint32_t index, std::uint64_t bytes) noexcept;

  // ---- Trainer ----

  /// A slot to post, the first free one, so that few stay warm; none if all are in use. Requests and results with a
  /// ticket below `first_ticket` are dropped, as nobody waits for them any more.
  std::optional<std::uint32_t> find_free(std::uint64_t first_ticket) noexcept;
  /// free -> posted; wakes a worker if one sleeps. `worker`: who alone may claim it.
  void post(std::uint32_t index, std::uint64_t ticket, std::uint16_t worker = kAnyWorker) noexcept;
  /// done or failed -> held: the result is dropped, the request stays.
  void hold(std::uint32_t index) noexcept { step(index, SlotState::kHeld); }
  /// held -> posted, with its ticket.
  void post_again(std::uint32_t index) noexcept;
  /// posted -> free; false if a worker was faster.
  bool cancel(std::uint32_t index) noexcept;
  bool has_result(std::uint32_t index) const noexcept {
    const auto state = word(index).state;
    return state == SlotState::kDone || state == SlotState::kFailed;
  }
  /// Sleeps until slot `index` has a result (if none is named: until more than `known` slots with a ticket of at least
  /// `first_ticket` have one), or something else is worth a look, or `timeout` is over. `due`: kWhenWoken, or kNot.
  void wait_for_result(std::optional<std::uint32_t> index, std::uint64_t first_ticket, std::chrono::nanoseconds timeout,
                       std::size_t known = 0, Due due = Due::kNot) noexcept;
  bool has_free() const noexcept;
  /// Whether the fork server's last word to the trainer's last call is that no worker is left and none can be made.
  /// Acquire: what it has stored before is seen after.
  bool is_broken() const noexcept {
    const std::uint32_t answered = header_->broken.load(std::memory_order_acquire);
    return answered == header_->calls.load(std::memory_order_relaxed) + 1;
  }
  /// Sleeps while workers are alive, until one ends or `timeout` is over.
  void wait_for_workers_to_leave(std::chrono::nanoseconds timeout) noexcept;
  /// done -> leased.
  void lease(std::uint32_t index) noexcept { step(index, SlotState::kLeased); }
  /// done, failed or leased -> free. Any thread of the trainer that holds the slot's last tensor.
  void free(std::uint32_t index) noexcept { step(index, SlotState::kFree); }
  /// Asks all workers to look at `stop` and `target_workers`.
  void wake_all_workers() noexcept;

  // ---- Worker ----

  /// posted -> taken by `worker`: the request with the lowest ticket. Sleeps while there is none. Returns none when
  /// the worker has to leave.
  std::optional<std::uint32_t> wait_for_work(std::uint32_t worker) noexcept;
  /// taken -> done or failed; wakes the trainer if it waits for this one.
  void finish(std::uint32_t index, SlotState result) noexcept;

  // ---- Fork server ----

  /// Whether a dead worker was at a batch.
  bool holds_slot(std::uint32_t worker) const noexcept;
  /// Takes back what a dead worker held: taken -> posted, or failed after most_deaths with `signal`, or free if nobody
  /// waits for it.
  void recover(std::uint32_t worker, int signal) noexcept;
  /// Makes the trainer look at the header.
  void wake_trainer() noexcept;

 private:
  bool any_result(std::optional<std::uint32_t> index, std::uint64_t first_ticket, std::size_t known) const noexcept;
  bool charge(std::uint32_t index, std::uint64_t bytes) noexcept;
  int try_reserve(std::uint32_t index, std::uint64_t bytes) noexcept;
  void check_fits(std::uint64_t bytes) const;
  [[noreturn]] void throw_no_memory(std::uint32_t index, std::uint64_t bytes, int error) const;
  std::optional<std::uint32_t> claim(std::uint32_t worker) noexcept;
  void post_word(std::uint32_t index, std::uint64_t ticket) noexcept;
  bool has_posted() const noexcept;
  bool must_leave(std::uint32_t worker) const noexcept;
  void wake_worker() noexcept;
  bool set_awake(std::uint32_t worker) noexcept;
  bool wake_if_asleep(std::uint32_t worker) noexcept;
  void step(std::uint32_t index, SlotState to) noexcept;

  std::unique_ptr<Segment> segment_;
  RingHeader* header_ = nullptr;
  std::atomic<std::uint64_t>* words_ = nullptr;
  Slot* slots_ = nullptr;
  std::byte* payloads_ = nullptr;
};

}  // namespace torchfeed::loader
