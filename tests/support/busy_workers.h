#pragma once

#include "support/loader_datasets.h"
#include "support/shared_counter.h"

#include <torchfeed/plugin/data_loader.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed::testing {

using IndexMaker = loader::DatasetBatchMaker<TensorDataset, std::vector<std::size_t>>;
using IndexShard = loader::DatasetShard<TensorDataset, std::vector<std::size_t>>;

/// What makes batches of one sample for an engine with these options.
inline std::unique_ptr<IndexMaker> make_maker(const FullDataLoaderOptions& options, loader::SlotRing& ring,
                                              IndexShard& shard) {
  using Request = std::vector<std::size_t>;
  if (options.worker_mode == WorkerMode::kThread) {
    return std::make_unique<loader::ThreadBatchMaker<TensorDataset, Request>>(ring, shard, 1, options.workers);
  }
  return std::make_unique<loader::ProcessBatchMaker<TensorDataset, Request>>(ring, shard, 1, options.workers);
}

/// An engine with 3 workers, each of which is at one of the first batches: number `i` for `busy(i, worker)`.
class BusyWorkers {
 public:
  explicit BusyWorkers(std::function<void(int worker)> when_all_are_busy, std::size_t max_worker_restarts = 100,
                       WorkerMode mode = WorkerMode::kProcess)
      : options_(
            DataLoaderOptions(1).num_workers(3).worker_mode(mode).seed(3).max_worker_restarts(max_worker_restarts)),
        telemetry_(""),
        ring_(loader::make_ring(options_)),
        shard_(TensorDataset(100,
                             [this, then = std::move(when_all_are_busy)](const std::vector<std::size_t>& indices) {
                               if (indices[0] < 3) {
                                 (*begun_).fetch_add(1);
                                 while ((*begun_).load() < 3) {
                                   std::this_thread::yield();
                                 }
                                 then(worker_info().value().id);
                               }
                               (*made_).fetch_add(1);
                               return indices_tensor(indices);
                             })),
        maker_(make_maker(options_, ring_->ring, shard_)) {
    maker_->prepare(3);
    engine_ = std::make_unique<loader::Engine>(options_, ring_, *maker_, telemetry_, /*workers=*/3,
                                               /*needs_all_workers=*/false);
    for (std::size_t i = 0; i < 3; ++i) {
      ask(i);
    }
    while ((*begun_).load() < 3) {
      std::this_thread::yield();
    }
  }

  loader::Engine& engine() { return *engine_; }
  const loader::SlotRing& ring() const { return ring_->ring; }
  int made() { return (*made_).load(); }
  void ask(std::size_t i) {
    const auto slot = engine_->find_slot().value();
    std::vector<std::size_t> request{i};
    maker_->put_request(slot, request);
    engine_->post(slot, {3, 1, i});
  }
  std::int64_t next() {
    const auto result = engine_->next([] { return false; });
    return maker_->take_batch(result.slot(), result.lease()).value().item<std::int64_t>();
  }

 private:
  SharedCounter begun_;
  SharedCounter made_;
  FullDataLoaderOptions options_;
  loader::Telemetry telemetry_;
  std::shared_ptr<loader::LeasedRing> ring_;
  IndexShard shard_;
  std::unique_ptr<IndexMaker> maker_;
  std::unique_ptr<loader::Engine> engine_;
};

}  // namespace torchfeed::testing
