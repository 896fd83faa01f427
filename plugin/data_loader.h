#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/errors.h>
#include <torchfeed/plugin/loader/batch_iterator.h>
#include <torchfeed/plugin/loader/dataset_shard.h>
#include <torchfeed/plugin/loader/endless_sampler.h>
#include <torchfeed/plugin/loader/engine.h>
#include <torchfeed/plugin/loader/request_source.h>
#include <torchfeed/plugin/loader/samples_in.h>
#include <torchfeed/plugin/loader/telemetry.h>
#include <torchfeed/plugin/loader/workforce.h>
#include <torchfeed/plugin/loader_state.h>
#include <torchfeed/plugin/loader_stats.h>
#include <torchfeed/plugin/worker_info.h>

#include <torch/data/iterator.h>
#include <torch/data/samplers/random.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace torchfeed {

/// Iterates over a dataset in batches that workers make ahead of the training loop: processes, threads, or with
/// num_workers(0) the loop itself. Made by `make_data_loader`. A drop-in for torch::data's loaders: begin() starts an
/// epoch, a range-based for loop runs it.
///
/// With worker processes, a batch's tensors are the workers' shared memory, not copies. They may be kept, written to,
/// and outlive the loader.
///
/// Streams (stateful datasets, and datasets that a StreamSampler drives) are read by each worker process from the
/// beginning, in its own copy: a dataset that gives each sample once has to leave to the others what is theirs, by
/// worker_info(). Batch b of an epoch is then made by worker b mod num_workers. Worker threads share a stateful
/// dataset, which has to lock what it changes.
///
/// With num_workers(kAuto) the loop makes the first batches itself, and workers come and go as its speed asks for; the
/// batches are the same. stats().worker_changes and the trace tell. Streams are left to the loop.
///
/// One thread at a time calls the methods and the iterators; tensors may go to any thread. Make loaders while no
/// other thread holds a lock that the dataset needs: workers are forked from this process as it is then (with kAuto, as
/// it is when the first one is started). LibTorch has such a lock for each operator's first call in a process.
template <typename Dataset, typename Sampler>
class DataLoader {
 public:
  using BatchType = typename loader::BatchOf<Dataset>::Type;
  using BatchRequestType = typename Sampler::BatchRequestType;

  /// Starts the workers, unless `options` asks for none. Throws c10::Error for options out of range and for batches
  /// that worker processes cannot send, std::system_error if shared memory, processes or threads are not to be had.
  DataLoader(Dataset dataset, Sampler sampler, const DataLoaderOptions& options)
      : options_(options),
        telemetry_(options_.trace),
        shard_(std::move(dataset)),
        source_(std::move(sampler), options_.batch_size, options_.drop_last,
                is_divided() ? std::max<std::size_t>(options_.workers, 1) : 1),
        workers_(options_, telemetry_, shard_, is_divided()) {}

  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  /// Starts an epoch: resets the sampler and asks the workers for the first batches. An epoch that was left early, by
  /// dropping its iterator, is given up. After load_state(), goes on with that epoch.
  /// Throws c10::Error, as torch::data does, if there are workers and another iterator has batches left.
  torch::data::Iterator<BatchType> begin() {
    check_usable();
    const bool has_workers = engine() || options_.auto_workers;
    const bool done = (!engine() || engine()->in_flight().empty()) && !source_.has_more();
    TORCH_CHECK(!has_workers || iterator_.expired() || !in_epoch_ || done,
                "Attempted to get a new DataLoader iterator while another iterator is not yet exhausted");
    ++generation_;
    telemetry_.epoch_begins();
    if (engine()) {
      engine()->cancel(is_divided() ? &source_.shards() : nullptr);
      if (in_epoch_ && !options_.persistent_workers) {
        engine()->send_workers_home();  // of an epoch that was left early
      }
      engine()->call_workers();
    }
    if (std::exchange(resuming_, false)) {
      source_.resume();
    } else {
      source_.restart();
      ++epoch_;
    }
    in_epoch_ = true;
    postponed_ = nullptr;
    begin_stateful();
    if (engine()) {
      prefetch_later();
    }
    auto token = std::make_shared<char>();
    iterator_ = token;
    return torch::data::Iterator<BatchType>(std::make_unique<loader::BatchIterator<BatchType>>(
        [this, token = std::move(token), generation = generation_] { return this->next(generation); }));
  }

  /// Not inline, as GCC 16 would take what it makes for an iterator with a batch where it sees both.
  C10_NOINLINE torch::data::Iterator<BatchType> end() {
    return torch::data::Iterator<BatchType>(std::make_unique<torch::data::detail::SentinelIterator<BatchType>>());
  }

  /// Ends the workers. The loader cannot be used after; its tensors can. The destructor does the same.
  void join() {
    ++generation_;
    if (engine() && !joined_) {
      end_engine();
    }
    joined_ = options_.workers > 0 || options_.auto_workers;
  }

  const FullDataLoaderOptions& options() const noexcept { return options_; }

  LoaderStats stats() const { return engine() ? engine()->stats() : telemetry_.stats(); }

  /// Where the loader is now: a loader that loads this goes on behind the batch that was handed out last.
  /// Not before that batch's place in a training loop is done with: between taking a batch and taking the next.
  /// Throws c10::Error if batches are in flight whose requests have a type without BatchCodec, and in mid-epoch of a
  /// stateful dataset that several worker threads share, as nobody knows whose batch is which part of it.
  LoaderState state() const {
    if (engine()) {
      engine()->check_process();
      TORCH_CHECK(!shares_dataset() || options_.workers == 1 || !in_epoch_,
                  "torchfeed: state(): a stateful dataset's place in mid-epoch: expected 1 worker thread, worker "
                  "processes or num_workers(0), got ",
                  options_.workers, " worker threads that share it");
    }
    LoaderState state;
    state.seed = options_.seed;
    state.epoch = epoch_;
    state.in_epoch = in_epoch_ || resuming_;
    TORCH_CHECK(!lost_requests_,
                "torchfeed: state(): join() was called while batches were in flight whose requests cannot be saved: "
                "specialise torchfeed::BatchCodec<T> for their type");
    if (engine() && !resuming_) {
      for (const std::uint32_t slot : engine()->in_flight()) {
        state.pending.push_back(workers_.maker().save_request(slot));
      }
    }
    source_.save(state);
    return state;
  }

  /// Makes the next begin() go on from `state`, which came from a loader over the same dataset with the same batch
  /// size, with whatever number and mode of workers. Iterators of this loader are dead. Throws c10::Error if the
  /// sampler does not understand the state.
  ///
  /// A stream is read again from its beginning, as it cannot be read from elsewhere, and by as many workers as before:
  /// with another number each would have another part of it, which throws c10::Error.
  void load_state(const LoaderState& state) {
    check_usable();
    if (kStream) {
      TORCH_CHECK(state.positions.size() == source_.shards().size(),
                  "torchfeed: load_state(): the parts of a stream: expected ", source_.shards().size(),
                  " (one for each worker process), got ", state.positions.size());
    }
    source_.load(state);
    if (engine()) {
      engine()->cancel();
    }
    if (kStream) {
      shard_.rewind();
    }
    options_.seed = state.seed;
    epoch_ = state.epoch;
    resuming_ = state.in_epoch;
    in_epoch_ = false;
    ++generation_;
  }

 private:
  static constexpr bool kStream = loader::kIsStream<Dataset, BatchRequestType>;
  using Shard = loader::DatasetShard<Dataset, BatchRequestType>;
  using Source = loader::RequestSource<Dataset, Sampler>;
  using Request = typename Source::Request;

  // Its own optional, torch's or std's depending on LibTorch's version.
  template <typename T>
  using Optional = detail::TorchOptional<T>;

  loader::Engine* engine() const noexcept { return workers_.engine(); }

  /// Whether all workers and the trainer have one and the same dataset.
  bool shares_dataset() const noexcept {
    return Dataset::is_stateful && options_.workers > 0 && options_.worker_mode == WorkerMode::kThread;
  }

  /// Whether each worker has a part of a stream that is its own to read.
  bool is_divided() const noexcept { return kStream && !shares_dataset(); }

  /// Ends the workers. What is in flight must not be lost to a later state(), nor to the loop.
  void end_engine() {
    keep_requests();
    workers_.end();
  }

  void keep_requests() {
    if (resuming_) {
      return;
    }
    std::deque<LoaderState::Request> requests;
    for (const std::uint32_t slot : engine()->in_flight()) {
      if constexpr (Sendable<BatchRequestType>) {
        requests.push_back(workers_.maker().save_request(slot));
      } else {
        lost_requests_ = true;
      }
    }
    source_.put_back(std::move(requests));
  }

  void check_usable() const {
    TORCH_CHECK(!joined_, "torchfeed: this loader's workers have gone: join() was called");
    if (engine()) {
      engine()->check_process();
    }
  }

  /// Resets a stateful dataset that lives here for the epoch, and brings it to the place where that goes on.
  void begin_stateful() {
    if (!Dataset::is_stateful || (engine() && !shares_dataset())) {
      return;  // worker processes have their own and know the epoch by its first request
    }
    if (engine()) {
      engine()->wait_until_idle();
    }
    shard_.catch_up({options_.seed, epoch_, 0}, {source_.position(), options_.batch_size, 0, 1},
                    loader::Workplace::kTrainer);
  }

  /// Keeps the workers supplied.
  void prefetch() {
    starved_ = nullptr;
    while (workers_.count() > 0 && !postponed_ && source_.has_more()) {
      const auto slot = engine()->find_slot();
      Request* next = slot ? source_.peek() : nullptr;
      if (next == nullptr || !put_request(*slot, *next)) {
        return;
      }
      engine()->post(
          *slot, {options_.seed, epoch_, next->batch},
          is_divided() ? static_cast<std::uint16_t>(next->batch % source_.shards().size()) : loader::kAnyWorker,
          next->position);
      source_.pop();
    }
  }

  /// False where there is no memory for the request now: it is posted when there is some.
  bool put_request(std::uint32_t slot, Request& next) {
    try {
      workers_.maker().put_request(slot, next.request);
      return true;
    } catch (const loader::NoMemoryLeft&) {
      starved_ = std::current_exception();
      return false;
    } catch (...) {
      source_.pop();
      throw;
    }
  }

  /// Where a request has found no memory and none is in flight that would give some back.
  void post_starved() {
    const bool posted = engine()->post_with_freed_memory([this] {
      prefetch_later();
      return !starved_ || !engine()->in_flight().empty();
    });
    if (posted) {
      return;
    }
    if (options_.auto_workers) {
      throw loader::WorkersLackResources("a request finds no shared memory");
    }
    source_.pop();
    std::rethrow_exception(std::exchange(starved_, nullptr));
  }

  /// prefetch(), but an exception of the sampler's waits until the batches before it have been handed out.
  void prefetch_later() {
    try {
      prefetch();
    } catch (...) {
      postponed_ = std::current_exception();
    }
  }

  Optional<BatchType> next(std::uint64_t generation) {
    TORCH_CHECK(generation == generation_,
                "torchfeed: this iterator's epoch has ended: begin(), load_state() or join() was called since");
    check_usable();
    telemetry_.step_ends();
    workers_.tune();
    if (workers_.count() == 0 && (!engine() || engine()->in_flight().empty())) {
      return next_inline();
    }
    try {
      return next_from_workers();
    } catch (const loader::WorkersLackResources& error) {
      leave_to_the_loop(error.what());
      return next_inline();
    }
  }

  /// Workers have not what they need to make what the loop can make: it does, from here on.
  void leave_to_the_loop(const std::string& problem) {
    keep_requests();
    workers_.leave_to_the_loop(problem);
    starved_ = nullptr;
  }

  Optional<BatchType> next_from_workers() {
    for (;;) {
      prefetch_later();
      while (engine()->in_flight().empty()) {
        if (postponed_) {
          std::rethrow_exception(std::exchange(postponed_, nullptr));
        }
        if (!source_.has_more()) {
          end_epoch();
          return {};
        }
        if (starved_) {
          post_starved();
        } else {
          engine()->wait_for_slot();
          prefetch_later();
        }
      }
      auto [id, batch] = take_next();
      if (!batch) {
        source_.shards().end(static_cast<std::size_t>(id.batch % source_.shards().size()));
      } else if (!is_dropped(*batch)) {
        prefetch_later();  // now, so that workers have it while the trainer trains
        telemetry_.handed_out(id);
        return Optional<BatchType>(std::move(*batch));
      }
    }
  }

  /// The next batch from the workers; none at the end of a stateful dataset. Its slot is free if its tensors have none.
  std::pair<loader::BatchId, std::optional<BatchType>> take_next() {
    const auto result = engine()->next([this] {
      prefetch_later();
      return workers_.count() > 0 && source_.has_more() && !postponed_;
    });
    return {result.id(), workers_.maker().take_batch(result.slot(), result.lease())};
  }

  Optional<BatchType> next_inline() {
    if (postponed_ && !source_.has_waiting()) {  // requests that workers have left come before it
      std::rethrow_exception(std::exchange(postponed_, nullptr));
    }
    workers_.release();
    for (;;) {
      Request* next = source_.peek();
      if (next == nullptr) {
        end_epoch();
        return {};
      }
      const loader::BatchId id{options_.seed, epoch_, next->batch};
      auto batch = make_inline(id, *next);
      if (!batch) {
        source_.shards().end(0);
      } else if (!is_dropped(*batch)) {
        telemetry_.handed_out(id);
        return Optional<BatchType>(std::move(*batch));
      }
    }
  }

  std::optional<BatchType> make_inline(const loader::BatchId& id, Request& waiting) {
    Request next = std::move(waiting);
    source_.pop();
    const auto core_begin = workers_.is_tuned() ? telemetry_.core_seconds() : std::nullopt;
    const auto begin = std::chrono::steady_clock::now();
    if constexpr (kStream) {
      shard_.catch_up(id, {next.position, options_.batch_size, 0, 1}, loader::Workplace::kTrainer);
      shard_.advance(loader::samples_asked<Dataset>(next.request, options_.batch_size));
    }
    std::optional<BatchType> batch;
    {
      const loader::BatchScope scope(id, nullptr, loader::Workplace::kTrainer, &workers_.pool());
      batch = loader::unwrap_batch<Dataset>(shard_.get_batch(std::move(next.request)));
    }
    telemetry_.made_inline(begin, id);
    if (core_begin) {
      telemetry_.used_core(begin, *core_begin);
    }
    return batch;
  }

  /// Whether a stateful dataset's batch is too small; other requests are dropped before they are made.
  bool is_dropped(const BatchType& batch) const {
    return Dataset::is_stateful && options_.drop_last &&
           loader::samples_in(batch).value_or(options_.batch_size) < options_.batch_size;
  }

  void end_epoch() {
    in_epoch_ = false;
    if (engine() && !options_.persistent_workers) {
      engine()->send_workers_home();
    }
    telemetry_.epoch_ends();
  }

  FullDataLoaderOptions options_;
  loader::Telemetry telemetry_;
  Shard shard_;
  Source source_;
  std::uint64_t epoch_ = 0;
  bool in_epoch_ = false;  // begin() was called and the end was not handed out
  bool resuming_ = false;  // the next begin() goes on
  bool joined_ = false;
  bool lost_requests_ = false;    // join() could not keep them for state()
  std::uint64_t generation_ = 0;  // of the iterator that is alive
  std::weak_ptr<char> iterator_;  // whether it is
  std::exception_ptr postponed_;
  std::exception_ptr starved_;  // the last request found no memory
  loader::Workforce<Dataset, BatchRequestType> workers_;
};

/// Makes a loader over a `dataset` with the given sampler. Throws as DataLoader's constructor.
template <typename Dataset, typename Sampler, typename = std::enable_if_t<!Dataset::is_stateful>>
std::unique_ptr<DataLoader<Dataset, Sampler>> make_data_loader(Dataset dataset, Sampler sampler,
                                                               const DataLoaderOptions& options) {
  return std::make_unique<DataLoader<Dataset, Sampler>>(std::move(dataset), std::move(sampler), options);
}

/// Makes a loader whose sampler is made from the dataset's size. Throws c10::Error if the dataset has none.
template <typename Sampler = torch::data::samplers::RandomSampler, typename Dataset,
          typename = std::enable_if_t<!Dataset::is_stateful && std::is_constructible_v<Sampler, std::size_t>>>
std::unique_ptr<DataLoader<Dataset, Sampler>> make_data_loader(Dataset dataset, const DataLoaderOptions& options = {}) {
  const auto size = dataset.size();
  TORCH_CHECK(size.has_value(), "Expected the dataset to be sized in order to construct the Sampler");
  return make_data_loader(std::move(dataset), Sampler(*size), options);
}

/// Makes a loader over a stateful dataset, which needs no sampler. See DataLoader about what workers read of it.
template <typename Dataset, typename = std::enable_if_t<Dataset::is_stateful>>
std::unique_ptr<DataLoader<Dataset, loader::EndlessSampler<typename Dataset::BatchRequestType>>> make_data_loader(
    Dataset dataset, const DataLoaderOptions& options = {}) {
  using Sampler = loader::EndlessSampler<typename Dataset::BatchRequestType>;
  return std::make_unique<DataLoader<Dataset, Sampler>>(std::move(dataset), Sampler(), options);
}

}  // namespace torchfeed
