#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed::testing {

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

struct ProgramOptions {
  /// Largest file that the program may write, in bytes (RLIMIT_FSIZE, its signal ignored); 0: any.
  rlim_t largest_file = 0;
  /// Descriptors that it may have (RLIMIT_NOFILE); 0: any.
  rlim_t most_descriptors = 0;
};

/// A program that runs beside the test, in a process group of its own, its output in files. Killed at the end of the
/// scope if it still runs.
class ProgramRun {
 public:
  /// `out_prefix`.out and `out_prefix`.err take its output.
  ProgramRun(const std::vector<std::string>& command, std::string out_prefix, const ProgramOptions& options = {})
      : prefix_(std::move(out_prefix)) {
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork failed");
    if (pid_ == 0) exec(command, options);
    ::setpgid(pid_, pid_);  // here as in the child, so that it holds for both from now on
  }
  ~ProgramRun() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    wait();
  }
  ProgramRun(const ProgramRun&) = delete;
  ProgramRun& operator=(const ProgramRun&) = delete;

  pid_t pid() const { return pid_; }
  std::string out() const { return read_text(prefix_ + ".out"); }
  std::string err() const { return read_text(prefix_ + ".err"); }

  void signal(int number) const { ::kill(pid_, number); }
  /// What a terminal does at Ctrl-C: all processes of the group get it.
  void signal_group(int number) const { ::kill(-pid_, number); }

  /// Waits until stderr holds `text`; false if the program ended, or a minute went by, without it.
  bool wait_for_err(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < deadline) {
      if (err().find(text) != std::string::npos) return true;
      siginfo_t info{};
      if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0) {
        return err().find(text) != std::string::npos;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  /// Waits for the end. The exit code, or -(signal) if one ended it.
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  [[noreturn]] void exec(const std::vector<std::string>& command, const ProgramOptions& options) {
    ::setpgid(0, 0);
    if (options.largest_file > 0) {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{options.largest_file, options.largest_file};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(127);
    }
    if (options.most_descriptors > 0) {
      const rlimit limit{options.most_descriptors, options.most_descriptors};
      if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(127);
    }
    redirect(prefix_ + ".out", STDOUT_FILENO);
    redirect(prefix_ + ".err", STDERR_FILENO);
    std::vector<char*> arguments;
    for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }

  static void redirect(const std::string& path, int to) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || ::dup2(fd, to) < 0) ::_exit(127);
    ::close(fd);
  }

  std::string prefix_;
  pid_t pid_ = -1;
};

}  // namespace torchfeed::testing
