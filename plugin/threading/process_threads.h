#pragma once

#include <sys/types.h>

#include <vector>

namespace torchfeed::threading {

/// The kernel's ids of this process's threads, ascending. Threads start and end meanwhile: an id may lead nowhere.
std::vector<pid_t> process_threads();

/// A scheduling policy of the kernel's (SCHED_OTHER, SCHED_FIFO, SCHED_RR; sched(7)) and its priority.
struct Scheduling {
  int policy = 0;
  int priority = 0;

  bool operator==(const Scheduling&) const = default;
};

/// What setting something for all of the process's threads came to.
struct ThreadsSet {
  int set = 0;
  /// The errno of the first thread that refused; 0 where none did.
  int error = 0;
  /// Threads that were left alone, ascending.
  std::vector<pid_t> others;
};

/// The calling thread's niceness, -20 to 19.
int niceness();

/// Linux keeps niceness and scheduling for each thread: these set and read back all threads of the process that have
/// what the calling thread has, and are not among `others`. Those that somebody gave something else on purpose, a
/// thread for sound or a logger, keep it: who puts things back passes them as `others`. A thread that starts later, and
/// a process that is forked, inherits its maker's niceness, and always begins with the usual scheduling.
ThreadsSet set_niceness(int nice, const std::vector<pid_t>& others = {});
Scheduling scheduling();
ThreadsSet set_scheduling(const Scheduling& wanted, const std::vector<pid_t>& others = {});

}  // namespace torchfeed::threading
