#pragma once

#include <torchfeed/plugin/loader/dataset_batch_maker.h>
#include <torchfeed/plugin/loader/error_codec.h>
#include <torchfeed/plugin/loader/saved_request.h>

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// Requests and batches are moved between threads as they are; the ring only says whose they are.
/// Each thread has its copy of the dataset, but a stateful dataset is one for all, as in torch::data.
template <typename Dataset, typename Request>
class ThreadBatchMaker final : public DatasetBatchMaker<Dataset, Request> {
 public:
  using Batch = typename BatchOf<Dataset>::Type;
  using Shard = DatasetShard<Dataset, Request>;

  /// `workers`: the most that there will be. Throws c10::Error if there are to be several copies of a dataset that
  /// cannot be copied.
  ThreadBatchMaker(SlotRing& ring, Shard& shard, std::uint64_t batch_size, std::uint64_t workers,
                   std::shared_ptr<BatchPool> pool = nullptr)
      : ring_(ring),
        shard_(shard),
        batch_size_(batch_size),
        workers_(workers),
        pool_(std::move(pool)),
        cells_(ring.size()) {
    if constexpr (!Dataset::is_stateful && !std::is_copy_constructible_v<Dataset>) {
      TORCH_CHECK(workers <= 1,
                  "torchfeed: each worker thread has a copy of the dataset: expected one that can be "
                  "copied (see torch::data::datasets::make_shared_dataset) or 1 worker, got ",
                  workers, " workers");
    } else if constexpr (!Dataset::is_stateful) {
      copies_.resize(workers);
    }
  }

  void prepare(std::size_t workers) override {
    if constexpr (!Dataset::is_stateful && std::is_copy_constructible_v<Dataset>) {
      for (std::size_t i = 0; i < workers; ++i) {
        if (!copies_[i]) {
          copies_[i] = std::make_unique<Shard>(shard_.dataset());
        }
      }
    }
  }

  void make(int worker, std::uint32_t index) override {
    Cell& cell = cells_[index];
    const Slot& slot = ring_.slot(index);
    Shard& shard = copies_.empty() ? shard_ : *copies_[static_cast<std::size_t>(worker)];
    if constexpr (kIsStream<Dataset, Request> && !Dataset::is_stateful) {
      shard.catch_up(slot.id, {slot.position, batch_size_, slot.designated, workers_}, Workplace::kWorkerThread);
      shard.advance(samples_asked<Dataset>(*cell.request, batch_size_));
    }
    const BatchScope scope(slot.id, nullptr, Workplace::kWorkerThread, kMakesOnce<Dataset> ? nullptr : pool_.get());
    if constexpr (std::is_copy_constructible_v<Request>) {
      cell.batch = unwrap_batch<Dataset>(shard.get_batch(*cell.request));  // a copy: it may have to be told or saved
    } else {
      cell.batch = unwrap_batch<Dataset>(shard.get_batch(std::move(*cell.request)));
    }
  }

  void fail(int worker, std::uint32_t index) noexcept override {
    cells_[index].error = std::current_exception();
    cells_[index].worker = worker;
  }

  void put_request(std::uint32_t index, Request& request) override {
    Cell& cell = cells_[index];
    cell.batch.reset();
    cell.error = nullptr;
    cell.request.emplace(std::move(request));
  }

  std::optional<Batch> take_batch(std::uint32_t index, Lease* /*lease*/) override {
    return std::exchange(cells_[index].batch, std::nullopt);
  }

  std::vector<std::size_t> indices(std::uint32_t index) const override { return indices_of(*cells_[index].request); }

  [[noreturn]] void rethrow(std::uint32_t index) override {
    const Cell& cell = cells_[index];
    throw_thread_error(std::exchange(cells_[index].error, nullptr), cell.worker, ring_.slot(index).id.batch,
                       indices(index));
  }

  LoaderState::Request save_request(std::uint32_t index) const override {
    if constexpr (std::is_copy_constructible_v<Request>) {
      const Slot& slot = ring_.slot(index);
      return loader::save_request(*cells_[index].request, slot.id.batch, slot.position);
    } else {
      TORCH_CHECK(false,
                  "torchfeed: state(): requests that cannot be copied are the worker's own, and cannot be saved");
    }
  }

 private:
  /// What a slot holds; its owner by the slot's word is who may touch it.
  struct Cell {
    std::optional<Request> request;
    std::optional<Batch> batch;
    std::exception_ptr error;
    int worker = -1;
  };

  SlotRing& ring_;
  Shard& shard_;
  std::uint64_t batch_size_;
  std::uint64_t workers_;
  std::shared_ptr<BatchPool> pool_;
  std::vector<std::unique_ptr<Shard>> copies_;  // one for each worker; none where all have the trainer's
  std::vector<Cell> cells_;
};

}  // namespace torchfeed::loader
