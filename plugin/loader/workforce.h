#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/batch_pool.h>
#include <torchfeed/plugin/loader/dataset_batch_maker.h>
#include <torchfeed/plugin/loader/dataset_shard.h>
#include <torchfeed/plugin/loader/engine.h>
#include <torchfeed/plugin/loader/process_batch_maker.h>
#include <torchfeed/plugin/loader/telemetry.h>
#include <torchfeed/plugin/loader/thread_batch_maker.h>
#include <torchfeed/plugin/loader/worker_costs.h>
#include <torchfeed/plugin/loader/worker_tuner.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

namespace torchfeed::loader {

/// A loader's workers: as many as its options say from the beginning, or with num_workers(kAuto) none at first, and
/// then as many as the tuner says. The trainer, one thread at a time.
template <typename Dataset, typename Request>
class Workforce {
 public:
  using Shard = DatasetShard<Dataset, Request>;
  using Maker = DatasetBatchMaker<Dataset, Request>;

  /// Whether worker processes can have requests and answer with batches.
  static constexpr bool kSendable = Sendable<Request> && Sendable<typename Dataset::BatchType>;

  /// All of them are the loader's and live longer. Starts the workers that `options` ask for; throws as DataLoader's
  /// constructor. `is_divided`: no other worker can do what one does.
  Workforce(FullDataLoaderOptions& options, Telemetry& telemetry, Shard& shard, bool is_divided)
      : options_(options), telemetry_(telemetry), shard_(shard), is_divided_(is_divided) {
    if (options_.auto_workers) {
      if (!kIsStream<Dataset, Request> && (kSendable || options_.worker_mode == WorkerMode::kThread)) {
        tuner_.emplace([this] { return limits(); });
      }
    } else if (options_.workers > 0) {
      start(options_.workers);
      workers_ = options_.workers;
    }
  }

  ~Workforce() {
    pool_->keep(0);  // it lives on with tensors that the user has
    if (engine_ && !engine_->is_owner()) {
      static_cast<void>(maker_.release());  // worker threads, which this fork has not, were in the middle of its cells
    }
  }
  Workforce(const Workforce&) = delete;
  Workforce& operator=(const Workforce&) = delete;

  /// Null while there have been no workers.
  Engine* engine() const noexcept { return engine_.get(); }
  /// While there is an engine.
  Maker& maker() const noexcept { return *maker_; }
  /// That the loop has now; 0: it makes batches itself when those under way have come.
  std::size_t count() const noexcept { return workers_; }
  /// What large batches that the loop makes take their memory from.
  BatchPool& pool() const noexcept { return *pool_; }
  /// Whether the number may change by itself.
  bool is_tuned() const noexcept { return tuner_.has_value(); }

  /// Before a batch: has the loop go on with the number of workers that it goes fastest with, as far as is known.
  void tune() {
    if (!tuner_ || telemetry_.stats().batches < tuner_->next_look()) {
      return;
    }
    std::string problem = "unknown error";
    try {
      TunerReading reading = telemetry_.reading();
      reading.under_way = engine_ ? engine_->in_flight().size() : 0;
      const auto wanted = static_cast<std::size_t>(tuner_->look(reading));
      if (wanted != workers_) {
        set_count(wanted);
      } else if (engine_ && wanted == 0) {
        engine_->give_back_memory();  // of batches that the loop still had when the last worker left
      }
      return;
    } catch (const std::exception& error) {
      problem = error.what();
    } catch (...) {
    }
    TORCH_WARN_ONCE("torchfeed: num_workers(kAuto): goes on with ", workers_, " workers: ", problem);
    tuner_.reset();
    if (!engine_) {
      maker_.reset();
    } else if (workers_ > 0 || engine_->in_flight().empty()) {
      engine_->set_workers(workers_);
    }
    keep_memory(workers_);
  }

  /// No request is in flight: where none are wanted any more, those workers leave that have made the last of them.
  void release() {
    if (engine_ && engine_->workers() > 0) {
      engine_->set_workers(0);
    }
  }

  /// Workers have not what they need to make what the loop can make: it does, from here on. The caller has kept the
  /// requests in flight.
  void leave_to_the_loop(const std::string& problem) {
    TORCH_WARN_ONCE("torchfeed: num_workers(kAuto): goes on without workers: ", problem);
    end();
    maker_.reset();
    telemetry_.workers_change(static_cast<int>(workers_), 0, problem);
    workers_ = 0;
    tuner_.reset();
    keep_memory(0);
  }

  /// Ends the workers, and what is in flight with them.
  void end() {
    telemetry_.stats() = engine_->stats();
    telemetry_.stats().workers = 0;
    engine_.reset();
    pool_->keep(0);
  }

 private:
  void start(std::size_t workers) {
    auto ring = make_ring(options_);
    keep_memory(workers);
    maker_ = make_maker(ring->ring);
    maker_->prepare(workers);
    engine_ = std::make_unique<Engine>(options_, std::move(ring), *maker_, telemetry_, workers,
                                       /*needs_all_workers=*/is_divided_);
    telemetry_.workers_start(static_cast<int>(options_.workers));
  }

  std::unique_ptr<Maker> make_maker(SlotRing& ring) {
    if (options_.worker_mode == WorkerMode::kThread) {
      return std::make_unique<ThreadBatchMaker<Dataset, Request>>(ring, shard_, options_.batch_size, options_.workers,
                                                                  pool_);
    }
    if constexpr (kSendable) {
      return std::make_unique<ProcessBatchMaker<Dataset, Request>>(ring, shard_, options_.batch_size, options_.workers);
    } else {
      TORCH_CHECK(false,
                  "torchfeed cannot send this dataset's batches or this sampler's requests between processes: "
                  "specialise torchfeed::BatchCodec<T> for their type, or use worker_mode(WorkerMode::kThread)");
    }
  }

  void set_count(std::size_t count) {
    if (!engine_) {
      start(count);
    } else if (count > 0 || engine_->in_flight().empty()) {
      maker_->prepare(count);
      engine_->set_workers(count);
    }  // else they leave when they have made what was asked for
    telemetry_.workers_change(static_cast<int>(workers_), static_cast<int>(count), tuner_->reason());
    workers_ = count;
    keep_memory(count);
  }

  /// What so many workers, or the loop, use by turns: batches under way, the loop's, and the one that it asks for.
  /// Small ones, of which more are under way, are left to malloc.
  void keep_memory(std::size_t workers) {
    const bool slots = workers > 0 && options_.worker_mode == WorkerMode::kProcess;
    pool_->keep(slots ? 0 : 2 + options_.jobs_for(workers));
  }

  TunerLimits limits() {
    options_.plan_workers(telemetry_.computing());
    if (!std::is_copy_constructible_v<Dataset> && options_.worker_mode == WorkerMode::kThread) {
      options_.workers = std::min<std::size_t>(options_.workers, 1);  // each thread has a copy
    }
    return costs_of_workers(options_);
  }

  FullDataLoaderOptions& options_;
  Telemetry& telemetry_;
  Shard& shard_;
  const bool is_divided_;
  const std::shared_ptr<BatchPool> pool_ = std::make_shared<BatchPool>();
  std::optional<WorkerTuner> tuner_;
  std::size_t workers_ = 0;
  std::unique_ptr<Maker> maker_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace torchfeed::loader
