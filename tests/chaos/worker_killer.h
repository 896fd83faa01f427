#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace torchfeed::chaos {

/// The living and dead children of a process, from /proc/PID/task/*/children: one read, where support/processes.h looks
/// through all of /proc.
std::vector<pid_t> listed_children(pid_t parent);

/// Ends a random worker of this process's only loader at random moments, as long as it lives: SIGKILL, SIGSEGV,
/// SIGABRT, or SIGSTOP and some moments later SIGKILL. Never the fork server.
///
/// Make it after the loader: a fork copies whatever lock another thread holds at that moment.
class WorkerKiller {
 public:
  /// Adds to `kills` before each death. `pause` is the mean of the exponentially distributed time between two.
  WorkerKiller(std::atomic<std::uint64_t>& kills, std::uint64_t seed, std::chrono::microseconds pause);
  ~WorkerKiller();
  WorkerKiller(const WorkerKiller&) = delete;
  WorkerKiller& operator=(const WorkerKiller&) = delete;

 private:
  void run();
  void strike();
  /// Returns early, with true, when this is to end.
  bool pause(std::chrono::microseconds mean);

  std::atomic<std::uint64_t>& kills_;
  std::mt19937_64 random_;
  std::chrono::microseconds pause_;
  std::vector<pid_t> struck_;  // and not buried yet: nobody dies twice
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace torchfeed::chaos
