#pragma once

#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader_stats.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "workloads.h"

namespace torchfeed::bench {

enum class Library { kTorchfeed, kTorchData };

/// A loader's settings.
struct Setting {
  Library library = Library::kTorchfeed;
  WorkerMode mode = WorkerMode::kProcess;
  std::int64_t workers = 0;  // or kAuto

  /// E.g. "torchfeed process 2".
  std::string name() const;
};

/// What is done with the loader.
struct Task {
  Workload workload = Workload::kWindows;
  double step_ms = 0;  // of computing, a batch
  std::size_t batch_size = 32;
  std::size_t batches = 1;
  std::size_t prefetch_factor = 2;
};

/// One epoch of a new loader. Seconds.
struct Epoch {
  double seconds = 0;
  double first_batch = 0;      ///< from before the loader is made until the first batch is there
  double settled_seconds = 0;  ///< without the first 5 % of the batches, or 50 of them
  std::size_t settled_batches = 0;
  double waiting = 0;  ///< time in the loader
  double p50 = 0;      ///< between batches
  double p99 = 0;
  std::optional<LoaderStats> stats;  ///< torchfeed's own
};

Epoch run_epoch(const Setting& setting, const Task& task);

}  // namespace torchfeed::bench
