#include <torchfeed/plugin/loader/process_setup.h>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <exception>

namespace torchfeed::loader {
namespace {

/// Signals that mean "end the training": a terminal or a service manager sends them to the whole process group. The
/// trainer decides; its children die when it does.
constexpr int kTrainersSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
/// Signals whose handlers of the trainer's (crash reports, checkpoints) have no business in a child.
constexpr int kCrashSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

}  // namespace

void enter_server_process() noexcept {
  for (const int signal : kTrainersSignals) {
    ::signal(signal, SIG_IGN);
  }
  for (const int signal : kCrashSignals) {
    ::signal(signal, SIG_DFL);
  }
  ::signal(SIGCHLD, SIG_DFL);
  ::prctl(PR_SET_NAME, "feed-server");
  try {
    at::set_num_threads(1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "torchfeed: worker processes keep their number of threads: %s\n", error.what());
  }
}

void enter_worker_process(int id) noexcept {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  char name[16];
  std::snprintf(name, sizeof(name), "feed-worker-%d", id);
  ::prctl(PR_SET_NAME, name);
}

}  // namespace torchfeed::loader
