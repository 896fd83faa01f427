#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <optional>

namespace torchfeed {

/// Where a DataLoader makes its batches when `num_workers` is above zero.
enum class WorkerMode : std::uint8_t {
  kProcess,  ///< forked from the trainer: their crashes cost nothing, batches travel by BatchCodec
  kThread,   ///< threads of the trainer's, as torch::data has: batches of any type, moved and not copied
};

/// Who makes the batch at hand.
struct WorkerInfo {
  int id = 0;              ///< 0 to count - 1; a worker that replaces a dead one takes over its id
  int count = 0;           ///< number of workers of the loader
  std::uint64_t seed = 0;  ///< the loader's seed, the same in each worker
  WorkerMode mode = WorkerMode::kProcess;
};

/// In a worker, its number and its loader's settings; nullopt in the trainer (also with num_workers(0)). Threads that a
/// dataset starts in a worker process belong to that worker.
std::optional<WorkerInfo> worker_info();

/// The random generator of the batch that is being made, seeded by (seed, epoch, batch): its numbers are the
/// same whatever the number of workers. Outside `get` and `get_batch` it is torch's default CPU generator.
/// Each thread has its own; not to be kept beyond the batch.
at::Generator generator();

}  // namespace torchfeed
