#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace torchfeed::testing {

/// What a test could leave behind, seen at one moment: files in shared memory, child processes, open descriptors.
struct Resources {
  std::vector<std::string> shared_memory_files;
  std::vector<std::string> child_processes;
  std::vector<std::string> descriptors;
};

/// Looks at this process. Shared-memory files are those in `shared_memory_dir` that belong to this user.
Resources current_resources(const std::string& shared_memory_dir = "/dev/shm");

/// One sentence for each thing in `after` that was not in `before`; empty if nothing was left. Descriptors of the same
/// kind are told apart by number only, so they are compared by what they lead to and how often.
std::vector<std::string> leftovers(const Resources& before, const Resources& after);

/// Fails each test that leaves something behind. Ends of processes and threads may come in a moment after the test's
/// end, so it looks again until nothing is left or `patience_ms` have gone by.
class LeftoversListener : public ::testing::EmptyTestEventListener {
 public:
  explicit LeftoversListener(int patience_ms = 2000) : patience_ms_(patience_ms) {}
  void OnTestStart(const ::testing::TestInfo& info) override;
  void OnTestEnd(const ::testing::TestInfo& info) override;

 private:
  int patience_ms_;
  Resources before_;
};

}  // namespace torchfeed::testing
