#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <filesystem>
#include <regex>
#include <string>
#include <system_error>

namespace torchfeed::testing {

/// Bytes of memory that the system has given to this process's loaders, whoever of them wrote there: the blocks of the
/// memfds by their name, not what this process has mapped of them.
inline std::size_t memory_used() {
  std::size_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    struct stat info {};
    if (target.rfind("/memfd:torchfeed", 0) == 0 && ::stat(entry.path().c_str(), &info) == 0) {
      bytes += static_cast<std::size_t>(info.st_blocks) * 512;
    }
  }
  return bytes;
}

/// What an error says of sizes: the budget, and what was asked for.
inline bool gives_both_sizes(const std::string& message, std::size_t budget, std::size_t smallest_batch) {
  static const std::regex number("[0-9]+");
  bool asked = false;
  bool expected = false;
  for (std::sregex_iterator found(message.begin(), message.end(), number), end; found != end; ++found) {
    const std::size_t value = std::stoull(found->str());
    expected = expected || value == budget;
    asked = asked || (value != budget && value >= smallest_batch);
  }
  return asked && expected;
}

}  // namespace torchfeed::testing
