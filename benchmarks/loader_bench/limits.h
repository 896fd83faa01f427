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

/// Makes the task's batches one after the other in one thread and in the same memory, without a loader: windows by
/// memcpy, the others as the dataset does. Empty for noop, which has no work.
std::optional<compare::Candidate> work_alone(const Task& task, double seconds);

/// The limit with so many workers (0: inline) on so many cores: what work_alone() gave, `alone`, by as many as can work
/// at once. Waiting takes no core. It is what waiting takes here, not what was asked for, which no sleep is held to.
/// Empty where there is none.
std::optional<Limit> limit_of(const Task& task, std::int64_t workers, int cores, const LoaderFigures* alone);

}  // namespace torchfeed::bench
