#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace torchfeed::loader {

/// What workers do, without its types: decode a request, make its batch, encode that.
class BatchMaker {
 public:
  BatchMaker() = default;
  virtual ~BatchMaker() = default;
  BatchMaker(const BatchMaker&) = delete;
  BatchMaker& operator=(const BatchMaker&) = delete;

  /// In a worker: makes the batch that `request` asks for.
  virtual void make(BatchReader& request, BatchWriter& batch) = 0;

  /// In the trainer, for messages: the dataset's indices that `request` asks for, if it holds any.
  virtual std::vector<std::size_t> indices(BatchReader& request) const = 0;
};

/// What a worker needs to know; the same for all workers of a loader.
struct WorkerJob {
  SlotRing* ring = nullptr;
  BatchMaker* maker = nullptr;
  int count = 0;
  std::uint64_t seed = 0;
  std::function<void(int)> init;
};

/// A worker's life: claims requests and makes batches until it has to leave. Exceptions, whatever their type, become
/// the batch's result. Runs in a process with one thread.
void run_worker(const WorkerJob& job, int id);

}  // namespace torchfeed::loader
