#include <torchfeed/plugin/compare/process_usage.h>

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

namespace torchfeed::compare {
namespace {

namespace fs = std::filesystem;

/// The numbers that are names in a folder; none if it is gone.
std::vector<pid_t> numbers_in(const std::string& folder) {
  std::vector<pid_t> numbers;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    numbers.push_back(static_cast<pid_t>(std::strtol(entry->path().filename().c_str(), nullptr, 10)));
  }
  return numbers;
}

void add_children(pid_t process, std::set<pid_t>& found) {
  const std::string tasks = "/proc/" + std::to_string(process) + "/task/";
  for (const pid_t thread : numbers_in(tasks)) {
    std::ifstream file(tasks + std::to_string(thread) + "/children");
    for (pid_t child = 0; file >> child;) {
      if (found.insert(child).second) {
        add_children(child, found);
      }
    }
  }
}

double seconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

double seconds_on(clockid_t clock) {
  timespec time{};
  return ::clock_gettime(clock, &time) == 0 ? seconds(time) : 0;
}

}  // namespace

std::set<pid_t> processes_below() {
  std::set<pid_t> found;
  add_children(::getpid(), found);
  return found;
}

double cpu_seconds_of(pid_t process) {
  clockid_t clock{};
  if (::clock_getcpuclockid(process, &clock) != 0) {
    return 0;
  }
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  // proc(5): fields 16 and 17 are cutime and cstime in ticks; the name in brackets, which is the second, may have
  // blanks.
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string skipped;
  for (int field = 3; field < 16; ++field) {
    fields >> skipped;
  }
  double user_ticks = 0;
  double system_ticks = 0;
  fields >> user_ticks >> system_ticks;
  return seconds_on(clock) + (user_ticks + system_ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

std::map<pid_t, double> cpu_seconds_of_threads() {
  std::map<pid_t, double> threads;
  for (const pid_t thread : numbers_in("/proc/self/task")) {
    // Nanoseconds on a CPU, the first number (Linux, Documentation/scheduler/sched-stats).
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/schedstat");
    double nanoseconds = 0;
    if (file >> nanoseconds) {
      threads[thread] = 1e-9 * nanoseconds;
    }
  }
  return threads;
}

double own_cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double proportional_set(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("Pss:", 0) == 0) {
      return 1024 * std::strtod(line.c_str() + 4, nullptr);
    }
  }
  return 0;
}

std::size_t open_descriptors() { return numbers_in("/proc/self/fd").size() - 1; }  // one of them looks

}  // namespace torchfeed::compare
