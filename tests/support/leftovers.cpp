#include "support/leftovers.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <thread>

namespace torchfeed::testing {
namespace {

// The system's own files, which libraries open once and keep, are nobody's leak.
bool is_of_the_system(const std::string& target) {
  static const char* const kPrefixes[] = {"/dev/null", "/dev/urandom", "/dev/dri", "/dev/nvidia",
                                          "/proc/",    "/sys/",        "/etc/",    "/usr/"};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                     [&](const char* prefix) { return target.rfind(prefix, 0) == 0; });
}

// "socket:[4711]" and "pipe:[4711]" become "socket" and "pipe": the number differs each time.
std::string kind_of(const std::string& target) { return target.substr(0, target.find(":[")); }

std::vector<std::string> open_descriptors() {
  std::vector<std::string> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir("/proc/self/fd"), closedir);
  if (!dir) {
    return found;
  }
  while (const dirent* entry = readdir(dir.get())) {
    const std::string name = entry->d_name;
    if (name[0] == '.' || name == std::to_string(dirfd(dir.get()))) {
      continue;
    }
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink("/proc/self/fd/" + name, gone).string();
    if (!gone && !is_of_the_system(target)) {
      found.push_back(kind_of(target));
    }
  }
  return found;
}

// Children of every thread, the dead that nobody has waited for among them.
std::vector<std::string> child_processes() {
  std::vector<std::string> found;
  std::error_code gone;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", gone)) {
    std::ifstream children(thread.path() / "children");
    for (std::string pid; children >> pid;) {
      std::ifstream status("/proc/" + pid + "/status");
      std::string name;
      std::string state;
      std::getline(status, name);
      while (std::getline(status, state) && state.rfind("State:", 0) != 0) {
      }
      std::replace(name.begin(), name.end(), '\t', ' ');
      std::replace(state.begin(), state.end(), '\t', ' ');
      found.push_back(pid + " (" + name + ", " + state + ")");
    }
  }
  return found;
}

std::vector<std::string> shared_memory_files(const std::string& dir) {
  std::vector<std::string> found;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator(dir, gone)) {
    struct stat info {};
    // Intel's OpenMP, in some builds of LibTorch, marks its presence so until the process ends.
    if (entry.path().filename().string().rfind("__KMP_REGISTERED_LIB_", 0) == 0) {
      continue;
    }
    if (lstat(entry.path().c_str(), &info) == 0 && info.st_uid == geteuid()) {
      found.push_back(entry.path().string());
    }
  }
  return found;
}

// Adds a sentence for whatever is there more often than before.
void add_new(const char* what, const std::vector<std::string>& before, const std::vector<std::string>& after,
             std::vector<std::string>& sentences) {
  std::map<std::string, int> counts;
  for (const auto& name : after) {
    ++counts[name];
  }
  for (const auto& name : before) {
    --counts[name];
  }
  for (const auto& [name, count] : counts) {
    if (count > 0) {
      std::ostringstream sentence;
      sentence << count << ' ' << what << " left: " << name;
      sentences.push_back(sentence.str());
    }
  }
}

// A process is the same whatever its state, so it goes by its number.
std::vector<std::string> running_since(const std::vector<std::string>& before, std::vector<std::string> after) {
  const auto number = [](const std::string& process) { return process.substr(0, process.find(' ')); };
  after.erase(std::remove_if(after.begin(), after.end(),
                             [&](const std::string& process) {
                               return std::any_of(before.begin(), before.end(), [&](const std::string& earlier) {
                                 return number(earlier) == number(process);
                               });
                             }),
              after.end());
  return after;
}

}  // namespace

Resources current_resources(const std::string& shared_memory_dir) {
  return {shared_memory_files(shared_memory_dir), child_processes(), open_descriptors()};
}

std::vector<std::string> leftovers(const Resources& before, const Resources& after) {
  std::vector<std::string> sentences;
  add_new("file in shared memory", before.shared_memory_files, after.shared_memory_files, sentences);
  add_new("child process", {}, running_since(before.child_processes, after.child_processes), sentences);
  add_new("descriptor", before.descriptors, after.descriptors, sentences);
  return sentences;
}

void LeftoversListener::OnTestStart(const ::testing::TestInfo& /*info*/) { before_ = current_resources(); }

void LeftoversListener::OnTestEnd(const ::testing::TestInfo& info) {
  if (info.result()->Skipped()) {
    return;
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms_);
  auto left = leftovers(before_, current_resources());
  while (!left.empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    left = leftovers(before_, current_resources());
  }
  for (const auto& sentence : left) {
    ADD_FAILURE() << info.test_suite_name() << '.' << info.name() << ": " << sentence;
  }
}

}  // namespace torchfeed::testing
