#pragma once

#include <torchfeed/plugin/loader/batch_maker.h>
#include <torchfeed/plugin/loader/slot_ring.h>
#include <torchfeed/plugin/worker_info.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace torchfeed::loader {

/// What a worker needs to know; the same for all workers of a loader.
struct WorkerJob {
  SlotRing* ring = nullptr;
  BatchMaker* maker = nullptr;
  int count = 0;
  std::uint64_t seed = 0;
  WorkerMode mode = WorkerMode::kProcess;
  std::function<void(int)> init;
  std::vector<int> cpus;  // to run on; empty: where the trainer may
};

/// A worker's life: claims requests and makes batches until it has to leave. Exceptions, whatever their type, become
/// the batch's result. Runs in a process with one thread, or in a thread of the trainer's process.
void run_worker(const WorkerJob& job, int id);

}  // namespace torchfeed::loader
