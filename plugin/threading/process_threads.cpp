#include <sched.h>
#include <sys/resource.h>
#include <torchfeed/plugin/threading/process_threads.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

namespace torchfeed::threading {
namespace {

std::optional<int> niceness_of(pid_t thread) {
  errno = 0;  // -1 is a niceness
  const int nice = getpriority(PRIO_PROCESS, static_cast<id_t>(thread));
  return errno == 0 ? std::optional(nice) : std::nullopt;
}

std::optional<Scheduling> scheduling_of(pid_t thread) {
  sched_param parameters{};
  const int policy = sched_getscheduler(thread);
  if (policy < 0 || sched_getparam(thread, &parameters) != 0) return std::nullopt;
  return Scheduling{policy & ~SCHED_RESET_ON_FORK, parameters.sched_priority};
}

/// Calls set(thread), which returns whether it took, for each thread where is_ours(thread).
template <typename IsOurs, typename Set>
ThreadsSet set_all(const std::vector<pid_t>& others, IsOurs is_ours, Set set) {
  ThreadsSet result;
  for (const pid_t thread : process_threads()) {
    if (std::find(others.begin(), others.end(), thread) != others.end() || !is_ours(thread)) {
      result.others.push_back(thread);
      continue;
    }
    errno = 0;
    if (set(thread)) {
      ++result.set;
    } else if (errno != ESRCH && result.error == 0) {
      result.error = errno != 0 ? errno : EPERM;
    }
  }
  return result;
}

}  // namespace

std::vector<pid_t> process_threads() {
  std::vector<pid_t> threads;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/task", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    pid_t thread = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), thread).ec == std::errc()) threads.push_back(thread);
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

int niceness() { return niceness_of(0).value_or(0); }

ThreadsSet set_niceness(int nice, const std::vector<pid_t>& others) {
  return set_all(
      others, [before = niceness_of(0)](pid_t thread) { return niceness_of(thread) == before; },
      [nice](pid_t thread) {
        return setpriority(PRIO_PROCESS, static_cast<id_t>(thread), nice) == 0 && niceness_of(thread) == nice;
      });
}

Scheduling scheduling() { return scheduling_of(0).value_or(Scheduling{}); }

ThreadsSet set_scheduling(const Scheduling& wanted, const std::vector<pid_t>& others) {
  sched_param parameters{};
  parameters.sched_priority = wanted.priority;
  // A loader's worker that inherited real time would keep the trainer from its core.
  const int policy = wanted.policy | (wanted.policy == SCHED_OTHER ? 0 : SCHED_RESET_ON_FORK);
  const auto set = [&](pid_t thread) {
    if (sched_setscheduler(thread, policy, &parameters) == 0) return true;
    // Only CAP_SYS_NICE may take that flag from a thread; usual scheduling is the same with it.
    return errno == EPERM && sched_setscheduler(thread, policy | SCHED_RESET_ON_FORK, &parameters) == 0;
  };
  return set_all(
      others, [before = scheduling_of(0)](pid_t thread) { return scheduling_of(thread) == before; },
      [&](pid_t thread) { return set(thread) && scheduling_of(thread) == wanted; });
}

}  // namespace torchfeed::threading
