#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/fork_server.h>
#include <torchfeed/plugin/loader/lease.h>
#include <torchfeed/plugin/loader/worker.h>
#include <torchfeed/plugin/loader_state.h>
#include <torchfeed/plugin/loader_stats.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// The trainer's side of the loader in process mode, without its types: posts requests, hands results out in order,
/// leases slots. All methods: the trainer, one thread at a time.
class Engine {
 public:
  /// Makes shared memory and forks the server; `maker` is what its workers use, as it is at this moment.
  Engine(const FullDataLoaderOptions& options, BatchMaker& maker);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Throws c10::Error in a fork of the trainer: the slots and the workers are its parent's.
  void check_process() const;

  /// Whether post() may be called: fewer than max_jobs requests are under way, and there is a slot.
  bool can_post() noexcept;

  /// Waits until there is a slot: all can be held for a moment by batches that the user keeps and by workers that are
  /// still at batches of an epoch that was left early. None may be in flight. Throws as next().
  void wait_for_slot();

  /// Asks the workers for the batch `id`; `write` writes the request.
  void post(const BatchId& id, const std::function<void(BatchWriter&)>& write);

  /// Batches that were asked for and not handed out.
  std::size_t in_flight() const noexcept { return in_flight_.size(); }

  /// A batch that has come back. Its slot is freed when this and all tensors that were read from it are gone.
  class Result {
   public:
    Result(Result&& other) noexcept;
    Result& operator=(Result&&) = delete;
    ~Result();

    /// Reads the batch, once. Its tensors are the slot's memory, or copies when too many slots are kept already.
    BatchReader reader() const;

   private:
    friend class Engine;
    Result(Engine& engine, std::uint32_t index, Lease* lease);
    Engine* engine_;
    std::uint32_t index_;
    Lease* lease_;
  };

  /// Waits for the next result: the oldest request's with enforce_ordering, else any. One must be in flight.
  /// Throws the batch's own exception if it failed (the next call goes on with the next batch), and WorkerError on
  /// time-out and when no worker is left (the request stays in flight).
  Result next();

  /// The requests in flight, oldest first.
  std::vector<LoaderState::Request> pending() const;

  /// Posts a request of pending() again.
  void post(const BatchId& id, const LoaderState::Request& request);

  /// Gives up all requests in flight. Batches that workers are at are dropped when done.
  void cancel() noexcept;

  /// Makes sure that there are workers: none are if send_workers_home() was called.
  void call_workers() noexcept;
  /// Ends all workers and waits for that. No request may be in flight.
  void send_workers_home() noexcept;

  LoaderStats stats() const noexcept;

 private:
  std::uint32_t take_slot();
  void post_slot(std::uint32_t index, const BatchId& id, const Record& request);
  std::optional<std::size_t> find_result() const noexcept;
  std::size_t wait_for_result();
  void check_workers() const;
  [[noreturn]] void throw_timeout_of_next() const;
  std::vector<std::size_t> indices(std::uint32_t index) const;

  const FullDataLoaderOptions options_;
  BatchMaker& maker_;
  std::uint32_t most_leases_;
  std::shared_ptr<LeasedRing> shared_;
  SlotRing& ring_;
  std::unique_ptr<ForkServer> server_;
  std::deque<std::uint32_t> in_flight_;  // slots, oldest request first
  std::uint64_t next_ticket_ = 0;
  std::uint64_t first_ticket_ = 0;          // results of older ones are dropped
  std::optional<std::uint32_t> free_slot_;  // found by can_post()
  LoaderStats stats_;
};

}  // namespace torchfeed::loader
