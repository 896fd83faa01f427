#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/dataset_batch_maker.h>
#include <torchfeed/plugin/loader/error_codec.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// Requests and batches cross between processes in their slot's memory, written and read by BatchCodec.
/// The dataset is the trainer's; workers have it as it is when they are forked.
template <typename Dataset, typename Request>
class ProcessBatchMaker final : public DatasetBatchMaker<Dataset, Request> {
 public:
  using Batch = typename BatchOf<Dataset>::Type;

  ProcessBatchMaker(SlotRing& ring, DatasetShard<Dataset, Request>& shard, std::uint64_t batch_size,
                    std::uint64_t workers)
      : ring_(ring), shard_(shard), batch_size_(batch_size), workers_(workers) {
    if constexpr (kMakesOnce<Dataset>) {
      ring.header().most_deaths = 1;
    }
  }

  void make([[maybe_unused]] int worker, std::uint32_t index) override {
    Slot& slot = ring_.slot(index);
    BatchReader reader(ring_.payload(index), slot.request, nullptr);
    Request request = BatchCodec<Request>::decode(reader);
    if constexpr (kIsStream<Dataset, Request>) {
      shard_.catch_up(slot.id, {slot.position, batch_size_, slot.designated, workers_}, Workplace::kWorkerProcess);
      shard_.advance(samples_asked<Dataset>(request, batch_size_));
    }
    if constexpr (kMakesOnce<Dataset>) {
      make_once(worker, index, std::move(request));
      return;
    }
    SlotMemory memory(ring_, index);
    BatchArena arena(memory, slot.request.end);
    const BatchScope scope(slot.id, &arena, Workplace::kWorkerProcess);
    BatchWriter writer(arena);
    BatchCodec<typename Dataset::BatchType>::encode(writer, shard_.get_batch(std::move(request)));
    slot.result = writer.finish();
  }

  void fail(int worker, std::uint32_t index) noexcept override {
    ErrorRecord& error = ring_.slot(index).error;
    encode_current_exception(error, worker);
    if constexpr (kMakesOnce<Dataset>) {
      error.bytes_wanted = 0;  // else the engine would ask for the batch again
    }
  }

  void put_request(std::uint32_t index, Request& request) override {
    SlotMemory memory(ring_, index);
    BatchArena arena(memory, 0);
    BatchWriter writer(arena);
    BatchCodec<Request>::encode(writer, request);
    ring_.slot(index).request = writer.finish();
  }

  std::optional<Batch> take_batch(std::uint32_t index, Lease* lease) override {
    if constexpr (kMakesOnce<Dataset>) {
      lease = nullptr;
    }
    BatchReader reader(ring_.payload(index), ring_.slot(index).result, lease);
    return unwrap_batch<Dataset>(BatchCodec<typename Dataset::BatchType>::decode(reader));
  }

  std::vector<std::size_t> indices(std::uint32_t index) const override {
    BatchReader reader(ring_.payload(index), ring_.slot(index).request, nullptr);
    return indices_of(BatchCodec<Request>::decode(reader));
  }

  [[noreturn]] void rethrow(std::uint32_t index) override {
    const Slot& slot = ring_.slot(index);
    if constexpr (kMakesOnce<Dataset>) {
      throw_told_error(slot.error, slot.id.batch, indices(index));
    }
    throw_error(slot.error, slot.id.batch, indices(index));
  }

  LoaderState::Request save_request(std::uint32_t index) const override {
    const Slot& slot = ring_.slot(index);
    const auto* bytes = reinterpret_cast<const char*>(ring_.payload(index));
    return {slot.id.batch, slot.position, slot.request.stream_begin, slot.request.stream_bytes,
            std::string(bytes, static_cast<std::size_t>(slot.request.end))};
  }

 private:
  /// A batch that must not be made again waits until there is room for it, in this worker.
  ///
  /// That room comes: a worker that waits has given back all but its request's page, so those who wait do not wait for
  /// each other. Memory is held by workers that are writing, which end or come to wait here too; by results, which the
  /// trainer takes as they come (the loader is not in order) and copies, so that no slot is leased; and by free slots,
  /// which the trainer empties when told. At last a batch has the budget for itself, and only one that is larger than
  /// that is an error.
  void make_once(int worker, std::uint32_t index, Request request) {
    Slot& slot = ring_.slot(index);
    // Without the arena: a batch is many results, and what each has in passing has to be freed with it.
    const BatchScope scope(slot.id, nullptr, Workplace::kWorkerProcess);
    const typename Dataset::BatchType batch = shard_.get_batch(std::move(request));
    for (;;) {
      std::uint64_t wanted = 0;
      try {
        SlotMemory memory(ring_, index);
        BatchArena arena(memory, slot.request.end);
        BatchWriter writer(arena);
        BatchCodec<typename Dataset::BatchType>::encode(writer, batch);
        slot.result = writer.finish();
        return;
      } catch (const NoMemoryLeft& error) {
        wanted = error.bytes_wanted();
      } catch (...) {
        Dataset::throw_unsent(batch, worker);
      }
      // How much it takes in all is not known: twice as much each time, so that it is written again a few times only.
      ring_.shrink(index, slot.request.end);
      ring_.reserve_waiting(index, std::min(2 * wanted, ring_.most_bytes()));
    }
  }

  SlotRing& ring_;
  DatasetShard<Dataset, Request>& shard_;
  std::uint64_t batch_size_;
  std::uint64_t workers_;
};

}  // namespace torchfeed::loader
