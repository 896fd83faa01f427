#pragma once

#include <torchfeed/plugin/compare/measured_loader.h>
#include <torchfeed/plugin/loader_stats.h>

#include <cstddef>
#include <vector>

namespace torchfeed::compare {

/// In which a loader finds its pace, where that is less than 5 %, and a third at most.
inline constexpr std::size_t kFirstBatches = 50;

/// What a loader is run for.
struct RunPlan {
  double seconds = 1;             ///< of epochs of the data, one after the other
  std::size_t least_batches = 4;  ///< however little time there is
  std::size_t period = 1;         ///< batches after which the data cost the same again
  std::size_t workers = 0;        ///< that the loader has; 0 also where it decides itself
  bool workers_are_threads = false;
  bool memory = false;  ///< whether to look at memory and descriptors, which takes milliseconds
};

/// What one run of one loader gave. Seconds, but where a name says otherwise.
struct LoaderRun {
  std::size_t batches = 0;
  /// The steady part: without the first batches (the first 50 or 5 % of them, at most a third), in which a loader
  /// finds its pace, and without the last that were asked for before the end.
  double samples_per_second = 0;
  double whole_samples_per_second = 0;  ///< of all, from before the loader is made
  double p50 = 0;                       ///< between batches
  double p99 = 0;
  double first_batch = 0;                   ///< from before the loader is made
  std::vector<double> later_first_batches;  ///< from begin(), of later epochs
  std::vector<double> turnarounds;          ///< from the last step of an epoch
  double waiting_share = 0;                 ///< of the time from the first batch on
  double trainer_cpu = 0;
  double worker_cpu = 0;
  double peak_pss_mb = 0;
  double added_pss_mb = 0;
  std::ptrdiff_t added_descriptors = 0;
  LoaderStats stats;  ///< at the end of the timed part
};

/// Runs a loader that is not made yet: for the time asked for, and then short epochs for how long it takes to get from
/// one to the next, and for memory. Throws what the loader throws, and std::runtime_error if it has no batch.
LoaderRun run_loader(MeasuredLoader& loader, const RunPlan& plan);

}  // namespace torchfeed::compare
