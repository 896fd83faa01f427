#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/errors.h>
#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/engine.h>
#include <torchfeed/plugin/loader/sampler_archive.h>
#include <torchfeed/plugin/loader_state.h>
#include <torchfeed/plugin/loader_stats.h>
#include <torchfeed/plugin/worker_info.h>

#include <torch/data/iterator.h>
#include <torch/data/samplers/random.h>

#include <c10/util/Exception.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed {

namespace loader {

/// A dataset behind the face that the engine knows.
template <typename Dataset, typename Request>
class DatasetBatchMaker final : public BatchMaker {
 public:
  explicit DatasetBatchMaker(Dataset dataset) : dataset_(std::move(dataset)) {}

  void make(BatchReader& request, BatchWriter& batch) override {
    BatchCodec<typename Dataset::BatchType>::encode(batch, dataset_.get_batch(BatchCodec<Request>::decode(request)));
  }

  std::vector<std::size_t> indices(BatchReader& request) const override {
    if constexpr (std::is_same_v<Request, std::vector<std::size_t>>) {
      return BatchCodec<Request>::decode(request);
    } else {
      return {};
    }
  }

  Dataset& dataset() noexcept { return dataset_; }

 private:
  Dataset dataset_;
};

}  // namespace loader

/// Iterates over a dataset in batches that worker processes make ahead of the training loop. Made by
/// `make_data_loader`. A drop-in for torch::data's loaders: begin() starts an epoch, a range-based for loop runs it.
///
/// A batch's tensors are the workers' shared memory, not copies. They may be kept, written to, and outlive the loader.
///
/// One thread at a time calls the methods and the iterators; tensors may go to any thread. Make loaders while no
/// other thread holds a lock that the dataset needs: workers are forked from this process as it is then.
template <typename Dataset, typename Sampler>
class DataLoader {
 public:
  using BatchType = typename Dataset::BatchType;
  using BatchRequestType = typename Sampler::BatchRequestType;

  /// Forks the workers, unless `options` asks for none. Throws c10::Error for options out of range,
  /// std::system_error if shared memory or processes are not to be had.
  DataLoader(Dataset dataset, Sampler sampler, const DataLoaderOptions& options)
      : options_(FullDataLoaderOptions::resolve(options)), maker_(std::move(dataset)), sampler_(std::move(sampler)) {
    if (options_.workers > 0) {
      engine_ = std::make_unique<loader::Engine>(options_, maker_);
    }
  }

  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  /// Starts an epoch: resets the sampler and asks the workers for the first batches. An epoch that was left early is
  /// given up, and iterators of it are dead. After load_state(), goes on with that epoch.
  torch::data::Iterator<BatchType> begin() {
    check_usable();
    ++generation_;
    if (engine_) {
      engine_->cancel();
      engine_->call_workers();
    }
    if (!std::exchange(resuming_, false)) {
      resumed_.clear();
      sampler_.reset();
      ++epoch_;
      batch_ = 0;
    }
    in_epoch_ = true;
    exhausted_ = false;
    postponed_ = nullptr;
    if (engine_) {
      prefetch_later();
    }
    using Valid = torch::data::detail::ValidIterator<BatchType>;
    return torch::data::Iterator<BatchType>(
        std::make_unique<Valid>([this, generation = generation_] { return this->next(generation); }));
  }

  torch::data::Iterator<BatchType> end() {
    return torch::data::Iterator<BatchType>(std::make_unique<torch::data::detail::SentinelIterator<BatchType>>());
  }

  /// Ends the workers. The loader cannot be used after; its tensors can. The destructor does the same.
  void join() {
    ++generation_;
    if (engine_ && !joined_) {
      const LoaderState now = state();  // what was in flight must not be lost to it
      resumed_.assign(now.pending.begin(), now.pending.end());
      last_stats_ = engine_->stats();
      last_stats_.workers = 0;
      engine_.reset();
    }
    joined_ = true;
  }

  const FullDataLoaderOptions& options() const noexcept { return options_; }

  LoaderStats stats() const { return engine_ ? engine_->stats() : last_stats_; }

  /// Where the loader is now: a loader that loads this goes on behind the batch that was handed out last.
  /// Not before that batch's place in a training loop is done with: between taking a batch and taking the next.
  LoaderState state() const {
    if (engine_) {
      engine_->check_process();
    }
    LoaderState state;
    state.seed = options_.seed;
    state.epoch = epoch_;
    state.batch = batch_;
    state.in_epoch = in_epoch_ || resuming_;
    if (engine_ && !resuming_) {
      state.pending = engine_->pending();
    }
    state.pending.insert(state.pending.end(), resumed_.begin(), resumed_.end());
    state.sampler = loader::save_sampler(sampler_);
    return state;
  }

  /// Makes the next begin() go on from `state`, which came from a loader over the same dataset with the same batch
  /// size, with whatever number of workers. Iterators of this loader are dead. Throws c10::Error if the sampler does
  /// not understand the state.
  void load_state(const LoaderState& state) {
    check_usable();
    loader::load_sampler(sampler_, state.sampler);
    if (engine_) {
      engine_->cancel();
    }
    options_.seed = state.seed;
    epoch_ = state.epoch;
    batch_ = state.batch;
    resuming_ = state.in_epoch;
    in_epoch_ = false;
    resumed_.assign(state.pending.begin(), state.pending.end());
    ++generation_;
  }

 private:
  void check_usable() const {
    TORCH_CHECK(!joined_, "torchfeed: this loader's workers have gone: join() was called");
    if (engine_) {
      engine_->check_process();
    }
  }

  // Its own optional, torch's or std's depending on LibTorch's version.
  template <typename T>
  using Optional = decltype(std::declval<torch::data::samplers::Sampler<T>&>().next(1));

  /// The sampler's next request; none at the end of the epoch.
  Optional<BatchRequestType> next_request() {
    auto request = sampler_.next(options_.batch_size);
    if (!request || (options_.drop_last && request->size() < options_.batch_size)) {
      exhausted_ = true;
      return {};
    }
    return request;
  }

  /// Keeps the workers supplied.
  void prefetch() {
    while (!postponed_ && has_more() && engine_->can_post()) {
      if (!resumed_.empty()) {
        engine_->post({options_.seed, epoch_, resumed_.front().batch}, resumed_.front());
        resumed_.pop_front();
      } else if (auto request = next_request()) {
        engine_->post({options_.seed, epoch_, batch_++},
                      [&](BatchWriter& writer) { BatchCodec<BatchRequestType>::encode(writer, *request); });
      }
    }
  }

  Optional<BatchType> next(std::uint64_t generation) {
    TORCH_CHECK(generation == generation_,
                "torchfeed: this iterator's epoch has ended: begin(), load_state() or join() was called since");
    check_usable();
    return engine_ ? next_from_workers() : next_inline();
  }

  Optional<BatchType> next_from_workers() {
    prefetch_later();
    while (engine_->in_flight() == 0) {
      if (postponed_) {
        std::rethrow_exception(std::exchange(postponed_, nullptr));
      }
      if (!has_more()) {
        end_epoch();
        return {};
      }
      engine_->wait_for_slot();
      prefetch_later();
    }
    const auto result = engine_->next();
    auto reader = result.reader();
    Optional<BatchType> batch(BatchCodec<BatchType>::decode(reader));
    prefetch_later();  // now, so that workers have it while the trainer trains
    return batch;
  }

  /// prefetch(), but an exception of the sampler's waits until the batches before it have been handed out.
  void prefetch_later() {
    try {
      prefetch();
    } catch (...) {
      postponed_ = std::current_exception();
    }
  }

  /// Whether the epoch has requests that were not posted yet, as far as is known.
  bool has_more() const { return !resumed_.empty() || !exhausted_; }

  Optional<BatchType> next_inline() {
    std::uint64_t number = batch_;
    Optional<BatchRequestType> request;
    if (!resumed_.empty()) {
      const LoaderState::Request saved = std::move(resumed_.front());
      resumed_.pop_front();
      BatchReader reader(reinterpret_cast<const std::byte*>(saved.bytes.data()),
                         {saved.bytes.size(), saved.stream_begin, saved.stream_bytes}, nullptr);
      request = BatchCodec<BatchRequestType>::decode(reader);
      number = saved.batch;
    } else if (!exhausted_) {
      request = next_request();
      ++batch_;
    }
    if (!request) {
      end_epoch();
      return {};
    }
    const auto begin = std::chrono::steady_clock::now();
    const loader::BatchScope scope({options_.seed, epoch_, number}, nullptr, /*restore=*/true);
    Optional<BatchType> batch(maker_.dataset().get_batch(std::move(*request)));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ++last_stats_.batches;
    last_stats_.wait_seconds += seconds;
    last_stats_.produce_seconds += seconds;
    return batch;
  }

  void end_epoch() {
    in_epoch_ = false;
    if (engine_ && !options_.persistent_workers) {
      engine_->send_workers_home();
    }
  }

  FullDataLoaderOptions options_;
  loader::DatasetBatchMaker<Dataset, BatchRequestType> maker_;
  Sampler sampler_;
  std::uint64_t epoch_ = 0;
  std::uint64_t batch_ = 0;  // of the next request
  bool in_epoch_ = false;    // begin() was called and the end was not handed out
  bool exhausted_ = false;   // the sampler has no more
  bool resuming_ = false;    // the next begin() goes on
  bool joined_ = false;
  std::uint64_t generation_ = 0;  // of the iterator that is alive
  std::deque<LoaderState::Request> resumed_;
  std::exception_ptr postponed_;
  LoaderStats last_stats_;  // inline, and after join()
  std::unique_ptr<loader::Engine> engine_;
};

/// Makes a loader over a map-style or batch-native `dataset` with the given sampler.
/// Throws as DataLoader's constructor.
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

}  // namespace torchfeed
