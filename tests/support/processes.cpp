#include "support/processes.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace torchfeed::testing {
namespace {

struct Status {
  char state = 'X';
  pid_t parent = 0;
};

/// From /proc/PID/stat: behind the name in parentheses come state and parent, proc(5).
Status status_of(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  std::string line;
  std::getline(file, line, '\0');  // a stream's own reading: a process that ends meanwhile is no exception
  Status status;
  if (const auto end = line.rfind(')'); end != std::string::npos) {
    status.state = line.at(end + 2);
    status.parent = static_cast<pid_t>(std::stol(line.substr(end + 4)));
  }
  return status;
}

bool ended(pid_t pid) {
  const char state = status_of(std::to_string(pid)).state;
  return state == 'X' || state == 'Z';
}

}  // namespace

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") == std::string::npos && status_of(name).parent == parent) {
      children.push_back(static_cast<pid_t>(std::stol(name)));
    }
  }
  return children;
}

bool all_end(const std::vector<pid_t>& pids) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  for (const pid_t pid : pids) {
    while (!ended(pid)) {
      if (std::chrono::steady_clock::now() > deadline) {
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return true;
}

}  // namespace torchfeed::testing
