#pragma once

#include <torchfeed/plugin/compare/comparison.h>

#include <cstdint>
#include <optional>
#include <string>

#include "options.h"

namespace torchfeed::bench {

/// What no loader can beat: how fast a task can go with so many workers at most.
struct Limit {
  LoaderFigures figures;  // samples a second alone
  std::string how;        // it was found
};

/// Makes the task's batches one after the other in one thread, without a loader: windows by memcpy into one buffer, the
/// others as the dataset does. Empty where the limit is not measured but known: waiting takes no core.
std::optional<compare::Candidate> work_alone(const Task& task, double seconds);

/// The limit with so many workers (0: inline) on so many cores. `alone`: what work_alone() gave. Empty for noop, which
/// has no work.
std::optional<Limit> limit_of(const Task& task, std::int64_t workers, int cores, const LoaderFigures* alone);

}  // namespace torchfeed::bench
