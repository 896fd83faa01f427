#include <torchfeed/plugin/loader/fork_server.h>
#include <torchfeed/plugin/loader/fork_server_main.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

namespace torchfeed::loader {
namespace {

// The server needs its grace for busy workers, and a core to run on.
constexpr std::chrono::milliseconds kPatience{3000};

FileDescriptor checked(int descriptor, const char* what) {
  if (descriptor < 0) {
    throw std::system_error(errno, std::generic_category(), std::string("torchfeed: fork server: ") + what);
  }
  return FileDescriptor(descriptor);
}

FileDescriptor open_pidfd(pid_t pid) {
  return checked(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)), "pidfd_open");  // CLOEXEC by itself
}

/// No signal reaches this thread while this lives, and so none of the trainer's handlers runs in a child before the
/// child has put them away.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

ForkServer::ForkServer(const WorkerJob& job, std::uint32_t max_restarts) : ring_(*job.ring) {
  commands_ = checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
  const FileDescriptor trainer = open_pidfd(::getpid());
  // What the trainer has printed but not flushed must not be printed again by children.
  std::fflush(stdout);
  std::fflush(stderr);
  const std::vector<int> cpus = threading::available_cpus();
  {
    const BlockSignals blocked;
    const threading::SingleThreadedBlasScope blas;
    pid_ = ::fork();
    if (pid_ == 0) {
      // OpenMP may have pinned this thread to one core; the trainer's whole mask is where workers belong.
      threading::bind_current_thread(cpus);
      run_fork_server(job, max_restarts, commands_.get(), trainer.get());
    }
  }
  if (pid_ < 0) {
    throw std::system_error(errno, std::generic_category(), "torchfeed: fork of the loader's fork server");
  }
  try {
    server_ = open_pidfd(pid_);
  } catch (...) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    throw;
  }
}

ForkServer::~ForkServer() {
  ring_.header().stop.store(1, std::memory_order_seq_cst);
  ring_.wake_all_workers();
  poke();
  // A trainer that ignores SIGCHLD, or waits for any child, has taken the status already: the pidfd tells all the same.
  pollfd gone{server_.get(), POLLIN, 0};
  int ready = -1;
  do {
    ready = ::poll(&gone, 1, static_cast<int>(kPatience.count()));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    // It is stopped, or cannot get on: its workers die with it.
    ::syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0);
  }
  ::waitpid(pid_, nullptr, 0);
}

bool ForkServer::alive() const noexcept {
  pollfd gone{server_.get(), POLLIN, 0};
  return ::poll(&gone, 1, 0) == 0;
}

void ForkServer::poke() noexcept { ::eventfd_write(commands_.get(), 1); }

}  // namespace torchfeed::loader
