#pragma once

#include <torchfeed/plugin/compare/loader_run.h>
#include <torchfeed/plugin/data_loader_options.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "workloads.h"

namespace torchfeed::bench {

/// With fewer repeats there is no spread to compare.
inline constexpr int kLeastRepeatsToCompare = 3;

/// Of a run of kAuto, so that the batches in which it finds its pace are a third at most.
inline constexpr std::size_t kLeastAutoBatches = 3 * compare::kFirstBatches + 1;

enum class Library { kTorchfeed, kTorchData };

/// A loader's settings.
struct Setting {
  Library library = Library::kTorchfeed;
  WorkerMode mode = WorkerMode::kProcess;
  std::int64_t workers = 0;  // or kAuto
  bool in_order = true;

  bool operator==(const Setting&) const = default;
};

/// What is done with loaders.
struct Task {
  Workload workload = Workload::kWindows;
  double step_ms = 0;  // of computing, a batch
  std::size_t batch_size = 32;
  std::size_t prefetch_factor = 2;
};

/// What the person who runs loader_bench asked for.
struct Options {
  std::vector<Workload> workloads;
  std::vector<Setting> settings;  // each once
  std::vector<double> step_ms{0};
  std::size_t batch_size = 32;
  std::size_t prefetch_factor = 2;
  int repeats = 5;
  double seconds = 1;
  double auto_seconds = 3;
  std::string json;      // file for all figures; empty: none
  std::string baseline;  // file of an earlier run; empty: none
};

/// Reads the command line. Empty if only help was asked for, which has been printed then. Throws std::invalid_argument
/// with one line for what is not understood or out of range.
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace torchfeed::bench
