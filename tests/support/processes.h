#pragma once

#include <sys/types.h>

#include <vector>

namespace torchfeed::testing {

/// The children of a process, from /proc; zombies too.
std::vector<pid_t> children_of(pid_t parent);

/// Whether all processes have ended within some seconds (a zombie has).
bool all_end(const std::vector<pid_t>& pids);

}  // namespace torchfeed::testing
