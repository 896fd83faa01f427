#include <torchfeed/plugin/loader/file_descriptor.h>
#include <torchfeed/plugin/loader/fork_server_main.h>
#include <torchfeed/plugin/loader/process_setup.h>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <optional>
#include <utility>
#include <vector>

namespace torchfeed::loader {
namespace {

using Clock = std::chrono::steady_clock;

// At the end a worker may finish the batch it is at; nobody waits for that batch, so not for long.
constexpr std::chrono::milliseconds kGrace{200};
// A fork that failed for want of memory or processes is tried again. Where no worker is there meanwhile, the trainer is
// told after so long and so many tries: on a machine that is that short, this process may be kept waiting itself.
constexpr std::chrono::milliseconds kForkRetry{50};
constexpr std::chrono::milliseconds kForkPatience{1000};
constexpr int kForkTries = 20;

// How a worker ends that was sent home: a dataset that calls exit() must not look like it.
constexpr int kLeftStatus = 113;

class Server {
 public:
  Server(const WorkerJob& job, std::uint32_t max_restarts, int commands, int trainer)
      : job_(job), ring_(*job.ring), max_restarts_(max_restarts), commands_(commands), trainer_(trainer) {
    workers_.resize(static_cast<std::size_t>(job.count), 0);
    given_up_.resize(workers_.size(), false);
    ended_.resize(workers_.size(), false);
    sigset_t child;
    ::sigemptyset(&child);
    ::sigaddset(&child, SIGCHLD);
    ::sigprocmask(SIG_SETMASK, &child, nullptr);
    children_ = FileDescriptor(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  [[noreturn]] void run() {
    if (children_.get() < 0) {
      leave(1);
    }
    for (;;) {
      const bool stop = ring_.header().stop.load(std::memory_order_seq_cst) != 0;
      if (stop && alive() == 0) {
        leave(0);
      }
      if (!stop) {
        fork_missing_workers();
      }
      const bool leaving = send_home(stop ? 0 : ring_.header().target_workers.load(std::memory_order_seq_cst));
      wait_for_event(leaving);
      bury_dead_workers();
    }
  }

 private:
  /// Workers leave by themselves, at the latest when their batch is done. Where all have to leave, nobody waits for
  /// that batch, and those that do not are killed after the grace. Whether any has still to leave for that.
  bool send_home(std::uint32_t target) {
    if (target > 0 || alive() == 0) {
      deadline_.reset();
      return false;
    }
    if (!deadline_) {
      deadline_ = Clock::now() + kGrace;
    } else if (Clock::now() >= *deadline_) {
      for (std::size_t id = 0; id < workers_.size(); ++id) {
        if (workers_[id] != 0) {
          ::kill(workers_[id], SIGKILL);
          ended_[id] = true;
        }
      }
    }
    return true;
  }

  void wait_for_event(bool leaving) {
    pollfd events[] = {{children_.get(), POLLIN, 0}, {commands_, POLLIN, 0}, {trainer_, POLLIN, 0}};
    const auto timeout = leaving ? kGrace : (fork_failed_ ? kForkRetry : std::chrono::milliseconds(-1));
    ::poll(events, 3, static_cast<int>(timeout.count()));
    if (events[2].revents != 0) {
      leave(1);  // the trainer is dead: nobody wants anything any more
    }
    if (events[1].revents != 0) {
      eventfd_t value = 0;
      ::eventfd_read(commands_, &value);
    }
    if (events[0].revents != 0) {
      signalfd_siginfo info{};
      while (::read(children_.get(), &info, sizeof(info)) > 0) {
      }
    }
  }

  void fork_missing_workers() {
    RingHeader& header = ring_.header();
    fork_failed_ = false;
    // First, so that what is found is no answer to a call that comes meanwhile.
    const std::uint32_t calls = header.calls.load(std::memory_order_seq_cst);
    const std::uint32_t target = header.target_workers.load(std::memory_order_seq_cst);
    if (std::exchange(calls_, calls) != calls) {
      given_up_.assign(given_up_.size(), false);  // those who come with a new call are no replacements
      failing_since_.reset();
    }
    for (std::uint32_t id = 0; id < target && id < workers_.size(); ++id) {
      if (workers_[id] != 0 || given_up_[id]) {
        continue;
      }
      header.alive_workers.store(alive() + 1, std::memory_order_release);  // before it can be seen at work
      const pid_t pid = ::fork();
      if (pid == 0) {
        become_worker(static_cast<int>(id));
      }
      if (pid < 0) {
        fork_failed_ = true;
        header.broken_errno.store(errno, std::memory_order_relaxed);
        break;
      }
      workers_[id] = pid;
      ended_[id] = false;
    }
    tell_trainer(target);
  }

  /// Tells the trainer how many workers there are, and whether it waits in vain for one.
  void tell_trainer(std::uint32_t target) {
    RingHeader& header = ring_.header();
    const std::uint32_t count = alive();
    header.alive_workers.store(count, std::memory_order_release);
    if (target == 0 && count == 0) {
      ring_.wake_trainer();  // it may wait for the last one to leave
    }
    const auto now = Clock::now();
    if (!fork_failed_) {
      failing_since_.reset();
    } else if (!failing_since_) {
      failing_since_ = now;
      failures_ = 0;
    }
    failures_ += fork_failed_ ? 1 : 0;
    const bool fork_fails = failing_since_ && now - *failing_since_ >= kForkPatience && failures_ >= kForkTries;
    const bool given_up = std::find(given_up_.begin(), given_up_.end(), true) != given_up_.end();
    const bool none_is_left = count == 0 && (!fork_failed_ || fork_fails);
    const bool one_is_missed = header.needs_all_workers && (given_up || fork_fails);
    if (target > 0 && (none_is_left || one_is_missed)) {
      if (!fork_failed_) {
        header.broken_errno.store(0, std::memory_order_relaxed);
      }
      header.broken.store(calls_ + 1, std::memory_order_release);
      ring_.wake_trainer();
    } else {
      header.broken.store(0, std::memory_order_release);
    }
  }

  void bury_dead_workers() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      for (std::size_t id = 0; id < workers_.size(); ++id) {
        if (workers_[id] == pid) {
          workers_[id] = 0;
          bury(static_cast<std::uint32_t>(id), status);
        }
      }
    }
  }

  void bury(std::uint32_t id, int status) {
    RingHeader& header = ring_.header();
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const bool wanted = id < header.target_workers.load(std::memory_order_seq_cst);
    const bool left = WIFEXITED(status) && WEXITSTATUS(status) == kLeftStatus && !ring_.holds_slot(id);
    // Counted first: once the batch is given back, the trainer may see it and ask for the statistics. One that was
    // ended here may be wanted again by now, but needed no replacement.
    if (wanted && !left && !ended_[id]) {
      header.last_signal.store(signal, std::memory_order_relaxed);
      if (restarts_ < max_restarts_) {
        ++restarts_;
        header.restarts.store(restarts_, std::memory_order_relaxed);
      } else {
        given_up_[id] = true;
      }
    }
    ring_.recover(id, signal);
  }

  [[noreturn]] void become_worker(int id) noexcept {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != self_) {
      ::_exit(1);  // the server died before the line above
    }
    children_ = FileDescriptor();
    ::close(commands_);
    ::close(trainer_);
    enter_worker_process(id);
    run_worker(job_, id);
    try {
      std::cout.flush();
    } catch (...) {  // whoever let the stream throw is not here any more
    }
    std::fflush(stdout);
    ::_exit(kLeftStatus);
  }

  std::uint32_t alive() const {
    std::uint32_t count = 0;
    for (const pid_t pid : workers_) {
      count += pid != 0 ? 1 : 0;
    }
    return count;
  }

  [[noreturn]] void leave(int status) {
    for (const pid_t pid : workers_) {
      if (pid != 0) {
        ::kill(pid, SIGKILL);
      }
    }
    for (const pid_t pid : workers_) {
      if (pid != 0) {
        ::waitpid(pid, nullptr, 0);
      }
    }
    ::_exit(status);
  }

  const pid_t self_ = ::getpid();
  const WorkerJob& job_;
  SlotRing& ring_;
  std::uint32_t max_restarts_;
  int commands_;
  int trainer_;
  FileDescriptor children_;     // signalfd of SIGCHLD
  std::vector<pid_t> workers_;  // by id; 0: none
  std::uint32_t calls_ = 0;     // that were seen
  std::vector<bool> given_up_;  // by id; died when there were no restarts left
  std::vector<bool> ended_;     // by id; killed as it did not leave in time
  std::uint32_t restarts_ = 0;
  bool fork_failed_ = false;
  std::optional<Clock::time_point> failing_since_;  // with no fork between that worked for all
  int failures_ = 0;                                // since then
  std::optional<Clock::time_point> deadline_;
};

}  // namespace

void run_fork_server(const WorkerJob& job, std::uint32_t max_restarts, int commands, int trainer) {
  Server(job, max_restarts, commands, trainer).run();
}

}  // namespace torchfeed::loader
