#include "support/watchdog.h"

#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

namespace torchfeed::testing {
namespace {

constexpr long kSecondsBeforeTimeout = 10;
constexpr int kFrames = 40;

// What runs here interrupts a process at any place. It is about to be killed: what could hang, or print half a line,
// costs nothing any more.

void say(const char* text) { static_cast<void>(!::write(STDERR_FILENO, text, std::strlen(text))); }

void say_file(const char* directory, const char* id, const char* file) {
  char path[96];
  std::snprintf(path, sizeof(path), "%s/%s/%s", directory, id, file);
  const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return;
  }
  char text[512];
  const ssize_t size = ::read(descriptor, text, sizeof(text) - 1);
  ::close(descriptor);
  if (size > 0) {
    text[size] = '\0';
    text[std::strcspn(text, "\n")] = '\0';
    say(" ");
    say(text);
  }
}

void say_what_the_kernel_knows(const char* directory, const char* id) {
  say(id);
  for (const char* file : {"comm", "wchan", "syscall", "stat"}) {
    say_file(directory, id, file);
  }
  say("\n");
}

void say_stack(int /*signal*/) {
  void* frames[kFrames];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, kFrames), STDERR_FILENO);
}

void say_threads() {
  DIR* const threads = ::opendir("/proc/self/task");
  while (const dirent* entry = threads != nullptr ? ::readdir(threads) : nullptr) {
    if (entry->d_name[0] == '.') {
      continue;
    }
    say("thread ");
    say_what_the_kernel_knows("/proc/self/task", entry->d_name);
    ::syscall(SYS_tgkill, ::getpid(), std::atoi(entry->d_name), SIGTRAP);
    const timespec moment{0, 100'000'000};
    ::nanosleep(&moment, nullptr);
  }
}

void say_children() {
  DIR* const processes = ::opendir("/proc");
  while (const dirent* entry = processes != nullptr ? ::readdir(processes) : nullptr) {
    char path[64];
    std::snprintf(path, sizeof(path), "/proc/%.20s/stat", entry->d_name);
    std::FILE* const stat = std::atoi(entry->d_name) > 0 ? std::fopen(path, "re") : nullptr;
    if (stat == nullptr) {
      continue;
    }
    int parent = 0;
    int group = 0;
    const bool known = std::fscanf(stat, "%*d (%*[^)]) %*c %d %d", &parent, &group) == 2;
    std::fclose(stat);
    if (known && group == ::getpgrp() && std::atoi(entry->d_name) != ::getpid()) {
      say("process of this group ");
      say_what_the_kernel_knows("/proc", entry->d_name);
    }
  }
}

void tell(int /*signal*/) {
  say("\nwatchdog: this test is about to be ended for taking too long; its threads and processes:\n");
  say_threads();
  say_children();
  say("watchdog: that is all\n");
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

void watch_for_hangs() {
  const char* const timeout = std::getenv("TORCHFEED_TEST_TIMEOUT");
  const long seconds = (timeout != nullptr ? std::atol(timeout) : 0) - kSecondsBeforeTimeout;
  if (seconds <= 0) {
    return;
  }
  void* frame = nullptr;
  ::backtrace(&frame, 1);  // loads what it needs, which a handler must not
  handle(SIGTRAP, say_stack);
  handle(SIGRTMAX, tell);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMAX;
  timer_t timer{};
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) {  // no child inherits it
    itimerspec when{};
    when.it_value.tv_sec = seconds;
    ::timer_settime(timer, 0, &when, nullptr);
  }
}

}  // namespace torchfeed::testing
