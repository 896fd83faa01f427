#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed {

/// A decision of num_workers(kAuto).
struct WorkerChange {
  std::uint64_t batch = 0;  ///< batches handed out before it
  int from = 0;
  int to = 0;
  std::string reason;
};

/// What a DataLoader has done since it was made. Read by `DataLoader::stats()` in the trainer's thread.
struct LoaderStats {
  std::uint64_t batches = 0;          ///< batches handed out
  std::uint64_t bytes = 0;            ///< payload of batches that came from worker processes, in bytes
  double wait_seconds = 0;            ///< time in which the trainer had no batch; inline, the time making them
  double produce_seconds = 0;         ///< time making batches, summed over workers
  double step_seconds = 0;            ///< time between getting a batch and asking for the next: the training itself
  std::uint64_t worker_restarts = 0;  ///< workers replaced after a death
  std::uint64_t copied_batches =
      0;            ///< batches copied out of their slot, as those kept left too few or too little memory
  int workers = 0;  ///< workers now, 0 inline
  std::vector<WorkerChange> worker_changes;  ///< of kAuto, the last 100

  /// Share of the workers' time that went into batches while the training loop ran, 0 to 1; 0 inline, and where kAuto
  /// has changed their number.
  double worker_use() const noexcept {
    const double available = worker_changes.empty() ? workers * (wait_seconds + step_seconds) : 0;
    return available > 0 ? std::min(produce_seconds / available, 1.0) : 0;
  }
};

}  // namespace torchfeed
