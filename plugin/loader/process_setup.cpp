#include <torchfeed/plugin/loader/file_descriptor.h>
#include <torchfeed/plugin/loader/process_setup.h>

#include <torchfeed/plugin/threading/malloc_learning.h>
#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/Parallel.h>

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

namespace torchfeed::loader {
namespace {

/// Signals that mean "end the training": a terminal or a service manager sends them to the whole process group. The
/// trainer decides; its children die when it does.
constexpr int kTrainersSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
sigset_t trainers_mask;

/// Handlers of the trainer's (crash reports, checkpoints, timers) have no business in a child.
void put_handlers_away() noexcept {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN) {
      ::signal(signal, SIG_DFL);
    }
  }
}

/// Where memory runs out, the kernel ends a process that has much of it: better a worker, which is replaced, than the
/// trainer, whose memory it seems to have as well. Without effect where /proc is not to be had.
void be_ended_before_the_trainer() noexcept {
  constexpr int kMore = 500;
  constexpr int kMost = 1000;
  const FileDescriptor file(::open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
  char text[16] = {};
  if (file.get() >= 0 && ::read(file.get(), text, sizeof(text) - 1) > 0) {
    const int length = std::snprintf(text, sizeof(text), "%d", std::min(std::atoi(text) + kMore, kMost));
    static_cast<void>(!::pwrite(file.get(), text, static_cast<std::size_t>(length), 0));
  }
}

/// What exit() comes to in a worker: nothing that the trainer has left for its own end may run here, as destructors of
/// its static objects wait for threads that are not here (LibTorch's inter-op pool does). Of what is printed, standard
/// output alone is the worker's; other files may hold what the trainer will write itself.
void leave_at_once(int status, void* /*context*/) noexcept {
  try {
    std::cout.flush();
  } catch (...) {  // whoever let the stream throw is not here any more
  }
  std::fflush(stdout);
  ::_exit(status);
}

}  // namespace

void enter_server_process(const sigset_t& mask) noexcept {
  trainers_mask = mask;
  ::sigdelset(&trainers_mask, SIGCHLD);
  put_handlers_away();
  for (const int signal : kTrainersSignals) {
    ::signal(signal, SIG_IGN);
  }
  ::signal(SIGCHLD, SIG_DFL);  // ignored, the kernel would reap workers itself
  ::prctl(PR_SET_NAME, "feed-server");
  threading::teach_malloc_to_keep();
  try {
    if (!threading::compute_on_this_thread_alone()) {
      at::set_num_threads(1);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "torchfeed: worker processes keep their number of threads: %s\n", error.what());
  }
}

void enter_worker_process(int id) noexcept {
  ::sigprocmask(SIG_SETMASK, &trainers_mask, nullptr);
  char name[16];
  std::snprintf(name, sizeof(name), "feed-worker-%d", id);
  ::prctl(PR_SET_NAME, name);
  be_ended_before_the_trainer();
  ::on_exit(leave_at_once, nullptr);  // last registered, first called
}

}  // namespace torchfeed::loader
