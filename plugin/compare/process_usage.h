#pragma once

#include <sys/types.h>

#include <cstddef>
#include <map>
#include <set>

namespace torchfeed::compare {

/// All processes below this one: those it started, those that they started. Empty where /proc does not tell.
std::set<pid_t> processes_below();

/// CPU time of a process and of those below it that it has waited for, in seconds; 0 if it is gone.
double cpu_seconds_of(pid_t process);

/// CPU time of each of this process's threads, in seconds.
std::map<pid_t, double> cpu_seconds_of_threads();

/// CPU time of all of this process's threads, also of those that are gone, in seconds.
double own_cpu_seconds();

/// A process's memory, what it shares with others divided by their number (proc(5): Pss), in bytes; 0 if it is gone.
double proportional_set(pid_t process);

/// This process's open file descriptors.
std::size_t open_descriptors();

}  // namespace torchfeed::compare
