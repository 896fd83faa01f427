#pragma once

#include <torchfeed/plugin/compare/comparison.h>

#include "options.h"

namespace torchfeed::bench {

/// E.g. "torchfeed process 2".
std::string name_of(const Setting& setting);

/// Whether there is such a loader: torch::data has no BatchConverter of its own.
bool has_candidate(const Setting& setting, const Task& task);

/// A loader with this setting over the task's data, timed as long as `options` say.
compare::Candidate candidate(const Setting& setting, const Task& task, const Options& options);

}  // namespace torchfeed::bench
