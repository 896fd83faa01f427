#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "support/leftovers.h"

namespace torchfeed::testing {

/// A soft limit, put back at the end of the scope.
class LimitScope {
 public:
  LimitScope(int resource, rlim_t value) : resource_(resource) {
    rlimit limit{};
    if (::getrlimit(resource_, &before_) != 0) {
      throw std::system_error(errno, std::generic_category(), "getrlimit");
    }
    limit = before_;
    limit.rlim_cur = value;
    if (::setrlimit(resource_, &limit) != 0) {
      throw std::system_error(errno, std::generic_category(), "setrlimit");
    }
  }
  ~LimitScope() { ::setrlimit(resource_, &before_); }
  LimitScope(const LimitScope&) = delete;
  LimitScope& operator=(const LimitScope&) = delete;

 private:
  int resource_;
  rlimit before_{};
};

namespace detail {

/// What `body` says, and then what it leaves behind.
inline std::string run_and_look(const std::function<std::string()>& body) noexcept {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // so that orphans are this process's children
  const Resources before = current_resources();
  std::string said;
  try {
    said = body();
  } catch (const std::exception& error) {
    said = std::string("unexpected: ") + error.what();
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  auto left = leftovers(before, current_resources());
  while (!left.empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    left = leftovers(before, current_resources());
  }
  for (const auto& sentence : left) {
    said += "; " + sentence;
  }
  return said;
}

/// Ends what is left of a child's process group, after some patience. Whether there was anything.
inline bool end_group(pid_t group) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (::kill(-group, 0) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(-group, SIGKILL);
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

}  // namespace detail

/// Runs `body` in a fork of this process, where it may set limits. What it returned, in one pipe's length at most, with
/// a sentence for each thing that it left behind; or how else it ended: "killed by signal 6", "hangs".
inline std::string said_in_a_child(const std::function<std::string()>& body) {
  constexpr std::chrono::milliseconds kPatience{60000};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe2");
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::close(ends[0]);
    const std::string said = detail::run_and_look(body);
    const auto written = ::write(ends[1], said.data(), said.size());
    std::_Exit(written == static_cast<ssize_t>(said.size()) ? 0 : 1);
  }
  ::setpgid(child, child);  // here as in the child, so that it holds for both from now on
  ::close(ends[1]);
  // Not the pipe's end tells of the child's: whatever the child leaves behind has the pipe too.
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
  pollfd ended{pidfd, POLLIN, 0};
  const bool hangs = ::poll(&ended, 1, static_cast<int>(kPatience.count())) == 0;
  ::close(pidfd);
  if (hangs) {
    ::kill(child, SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  std::string said(65536, '\0');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(::read(ends[0], said.data(), said.size()), 0)));
  ::close(ends[0]);
  if (hangs) {
    said = "hangs";
  } else if (WIFSIGNALED(status)) {
    said = "killed by signal " + std::to_string(WTERMSIG(status));
  }
  return detail::end_group(child) ? said + "; processes left" : said;
}

}  // namespace torchfeed::testing
