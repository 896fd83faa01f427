#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

namespace torchfeed {

/// Expects what `holds` says in a forked child, which computes on one thread.
template <typename Holds>
void expect_in_child(const Holds& holds) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    at::set_num_threads(1);
    try {
      _exit(holds() ? 0 : 1);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(2);
    }
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace torchfeed
