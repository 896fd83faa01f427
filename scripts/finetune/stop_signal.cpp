#include "stop_signal.h"

#include <csignal>
#include <initializer_list>

namespace torchfeed::finetune {
namespace {

volatile std::sig_atomic_t received = 0;

void remember(int signal) {
  received = signal;
  // Both, so that SIGTERM after SIGINT ends a process that hangs.
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void catch_stop_signals() {
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction action {};
    action.sa_handler = remember;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, nullptr);
  }
}

int stop_signal() noexcept { return received; }

}  // namespace torchfeed::finetune
