#pragma once

#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/batch_maker.h>
#include <torchfeed/plugin/loader/crew.h>
#include <torchfeed/plugin/loader/lease.h>
#include <torchfeed/plugin/loader/lookahead.h>
#include <torchfeed/plugin/loader/memory_keeper.h>
#include <torchfeed/plugin/loader/telemetry.h>
#include <torchfeed/plugin/loader_state.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace torchfeed::loader {

class StreamShards;

/// With kAuto: the system does not give what workers need. Nothing is lost: all requests are in flight still.
class WorkersLackResources : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The slots that a loader with these options needs.
std::shared_ptr<LeasedRing> make_ring(const FullDataLoaderOptions& options);

/// The trainer's side of a loader with workers, without its types: posts requests, hands results out in order, leases
/// slots. All methods: the trainer, one thread at a time.
class Engine {
 public:
  /// Starts the workers; worker processes use `maker` as it is at this moment. `maker` and `telemetry` live longer.
  /// `workers`: how many to begin with, at most the options' number. `needs_all_workers`: no other worker can do what
  /// one does.
  Engine(const FullDataLoaderOptions& options, std::shared_ptr<LeasedRing> ring, BatchMaker& maker,
         Telemetry& telemetry, std::size_t workers, bool needs_all_workers);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// False in a fork of the trainer.
  bool is_owner() const noexcept { return shared_->owner_depth == fork_depth(); }
  /// Throws c10::Error in a fork of the trainer: the slots and the workers are its parent's.
  void check_process() const;

  // ---- Requests ----

  /// A slot to write a request into and to post; none while enough requests are under way, or slots or memory are
  /// short.
  std::optional<std::uint32_t> find_slot() noexcept;

  /// Waits until find_slot() may have one: all can be held for a moment by batches that the user keeps and by workers
  /// that are still at batches of an epoch that was left early. None may be in flight. Throws as next().
  void wait_for_slot();

  /// Where a request has found no memory and none is in flight: has `try_again`, which posts one if it can, do so with
  /// what free slots and batches of epochs that were left early have had. False if it never said that it had, and no
  /// worker is at such a batch any more. Throws as next().
  bool post_with_freed_memory(const std::function<bool()>& try_again);

  /// Asks for batch `id` with the request that was written into `slot`. Of a stream: `worker` alone may make it, and
  /// `position` is where its part goes on.
  void post(std::uint32_t slot, const BatchId& id, std::uint16_t worker = kAnyWorker, std::uint64_t position = 0);

  /// Requests that were not answered yet, as slots, oldest first.
  const std::deque<std::uint32_t>& in_flight() const noexcept { return in_flight_; }

  /// Gives up all requests in flight. Batches that workers are at are dropped when done. `streams` is told of requests
  /// that no worker had claimed.
  void cancel(StreamShards* streams = nullptr) noexcept;
  /// After cancel(): waits until no worker is at a batch. Only threads, as processes may never come back.
  void wait_until_idle() noexcept;

  // ---- Results ----

  /// A batch that has come back. Its slot is freed when this and all tensors that were read from it are gone.
  class Result {
   public:
    Result(Result&& other) noexcept;
    Result& operator=(Result&&) = delete;
    ~Result();

    std::uint32_t slot() const noexcept { return index_; }
    const BatchId& id() const noexcept { return id_; }
    /// What the batch's tensors share; null where they have to be copies, as too many slots are kept already.
    Lease* lease() const noexcept { return lease_; }

   private:
    friend class Engine;
    Result(SlotRing* ring, std::uint32_t index);
    SlotRing* ring_;
    std::uint32_t index_;
    Lease* lease_ = nullptr;
    BatchId id_;
  };

  /// Waits for the next result: the oldest request's with enforce_ordering, else any. One must be in flight.
  /// Throws the batch's own exception if it failed (the next call goes on with the next batch), and WorkerError on
  /// time-out and when no worker is left (the request stays in flight), and with auto_workers WorkersLackResources
  /// where a batch finds no memory, no worker can be forked or the fork server is dead. While it waits it calls
  /// `refill`, which posts what it can and says whether it would post more if it could.
  Result next(const std::function<bool()>& refill);

  // ---- Workers ----

  /// Has so many workers from now on, at most the options' number; 0 only while no request is in flight. Those who have
  /// to leave finish the batch that they are at; with 0, free slots give back their memory. Throws std::system_error if
  /// a thread cannot be had.
  void set_workers(std::size_t count);
  /// Takes their memory from slots that nobody uses.
  void give_back_memory() noexcept;
  std::size_t workers() const noexcept { return workers_; }
  /// Makes sure that there are workers: none are if send_workers_home() was called.
  void call_workers();
  /// Ends all workers and waits for that. No request may be in flight.
  void send_workers_home() noexcept;

  LoaderStats stats() const;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  bool counts_unfinished_only() const noexcept;
  std::optional<std::size_t> find_result() const noexcept;
  std::size_t finished() const noexcept;
  std::size_t wait_for_result(const std::function<bool()>& refill, std::optional<Clock::time_point> deadline);
  bool anyone_at_work() const noexcept;
  bool free_results() noexcept;
  void complete_crew();
  bool put_off(std::size_t position) noexcept;
  std::optional<std::uint32_t> newest_result(std::uint32_t index) const noexcept;
  void hold(std::uint32_t index) noexcept;
  void post_held() noexcept;
  void lend_memory() noexcept;
  Lease* lease(std::uint32_t index);
  bool crew_is_lost() const noexcept;
  [[noreturn]] void throw_crew_lost() const;
  [[noreturn]] void throw_timeout_of_next() const;

  const FullDataLoaderOptions options_;
  std::size_t workers_;  // as they should be in an epoch
  Lookahead lookahead_;
  BatchMaker& maker_;
  Telemetry& telemetry_;
  std::shared_ptr<LeasedRing> shared_;
  SlotRing& ring_;
  MemoryKeeper memory_;
  std::uint32_t most_leases_;
  std::unique_ptr<Crew> crew_;
  std::deque<std::uint32_t> in_flight_;
  std::size_t held_ = 0;         // of in_flight_: found no memory, and wait for some
  std::uint64_t alone_ = kNone;  // ticket of the last one that was posted again when there was nothing left to gain
  std::uint64_t next_ticket_ = 0;
  std::uint64_t first_ticket_ = 0;  // results of older ones are dropped
};

}  // namespace torchfeed::loader
