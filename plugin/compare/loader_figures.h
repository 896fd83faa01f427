#pragma once

#include <torchfeed/plugin/loader_stats.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed {

/// What a loader with one setting gave: medians over the repeats, and of some the lowest and highest.
struct LoaderFigures {
  std::string name;   ///< of the setting, e.g. "process 2"
  std::string error;  ///< what went wrong, and ended the setting's runs; empty: nothing
  int repeats = 0;    ///< that went well; without any, all else is 0
  bool best = false;  ///< of those compared, the fastest, or the one of fewest workers among those within 2 % of it

  std::size_t batches = 0;            ///< a repeat
  double samples_per_second = 0;      ///< of the steady part, without the start
  double samples_per_second_low = 0;  ///< the slowest repeat
  double samples_per_second_high = 0;
  double whole_samples_per_second = 0;  ///< of all, from before the loader is made: with what kAuto's trials cost
  double us_per_batch_p50 = 0;          ///< microseconds from batch to batch, the training step included
  double us_per_batch_p99 = 0;          ///< 99 of 100 are faster
  double first_batch_ms = 0;            ///< milliseconds from before the loader is made to the first batch
  double first_batch_ms_low = 0;        ///< the fastest repeat
  double first_batch_ms_high = 0;       ///< the slowest repeat
  double later_first_batch_ms = 0;      ///< from begin() to the first batch, in later epochs of the same loader
  double turnaround_ms = 0;             ///< from an epoch's last step to the next epoch's first batch
  double waiting_share = 0;  ///< of the loop's time, 0 to 1, in which it waited for the loader, or inline made batches
  double trainer_cpu_seconds = 0;  ///< of the trainer's process, worker threads left out
  double worker_cpu_seconds = 0;   ///< of worker processes and the server that forks them, or of worker threads, with
                                   ///< what threads use that the step itself starts after the loader is made
  double peak_pss_mb =
      0;  ///< MB of trainer and workers, the most seen after the timed part; what they share counts once
  double added_pss_mb = 0;                   ///< how much of it came with the loader
  std::ptrdiff_t descriptors = 0;            ///< open files of the trainer that came with the loader
  int workers = 0;                           ///< at the end of the last repeat; torch::data does not tell: 0
  std::uint64_t copied_batches = 0;          ///< in the last repeat, see LoaderStats
  std::vector<WorkerChange> worker_changes;  ///< in the last repeat, of kAuto
};

}  // namespace torchfeed
