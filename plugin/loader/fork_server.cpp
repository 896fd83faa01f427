#include <torchfeed/plugin/loader/fork_server.h>
#include <torchfeed/plugin/loader/fork_server_main.h>
#include <torchfeed/plugin/loader/process_setup.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/CPUGeneratorImpl.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace torchfeed::loader {
namespace {

// The server needs its grace for busy workers, and a core to run on.
constexpr std::chrono::milliseconds kPatience{3000};

constexpr int kForkTries = 10;
constexpr std::chrono::milliseconds kForkRetry{1};

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

  const sigset_t& before() const noexcept { return before_; }

 private:
  sigset_t before_;
};

/// What the trainer has printed but not flushed must not be printed again by children.
void flush_standard_streams() {
  std::cout.flush();
  std::clog.flush();
  std::wcout.flush();
  std::fflush(stdout);
  std::fflush(stderr);
}

/// The child's life. Nothing that is thrown here may unwind into the trainer's own code, a copy of which this is.
[[noreturn]] void become_server(const WorkerJob& job, std::uint32_t max_restarts, int commands, int trainer,
                                const std::vector<int>& cpus, const sigset_t& mask) noexcept {
  enter_server_process(mask);
  // OpenMP may have pinned this thread to one core; the trainer's whole mask is where workers belong.
  threading::bind_current_thread(cpus);
  run_fork_server(job, max_restarts, commands, trainer);
}

}  // namespace

ForkServer::ForkServer(const WorkerJob& job, std::uint32_t max_restarts) : ring_(*job.ring) {
  commands_ = checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
  const FileDescriptor trainer = open_pidfd(::getpid());
  const std::vector<int> cpus = job.cpus.empty() ? threading::available_cpus() : job.cpus;
  flush_standard_streams();
  int error = 0;
  {
    threading::prepare_compute_alone();
    const BlockSignals blocked;
    const threading::SingleThreadedBlasScope blas;
    // Worker threads of another loader may be drawing numbers: a child must not inherit the lock from one of them.
    const at::Generator generator = at::detail::getDefaultCPUGenerator();
    generator.unsafeGetGeneratorImpl()->mutex_.lock();
    // OpenBLAS ends its pool before a fork, and a thread that has ended counts against limits for a moment more.
    for (int tries = 0; (pid_ = ::fork()) < 0 && errno == EAGAIN && tries < kForkTries; ++tries) {
      std::this_thread::sleep_for(kForkRetry);
    }
    error = errno;
    generator.unsafeGetGeneratorImpl()->mutex_.unlock();
    if (pid_ == 0) {
      become_server(job, max_restarts, commands_.get(), trainer.get(), cpus, blocked.before());
    }
  }
  if (pid_ < 0) {
    throw std::system_error(error, std::generic_category(), "torchfeed: fork of the loader's fork server");
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
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (alive()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      // It is stopped, or cannot get on: its workers die with it.
      ::syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0);
    }
    pollfd gone{server_.get(), POLLIN, 0};
    ::poll(&gone, 1, static_cast<int>(std::max<std::chrono::milliseconds::rep>(left.count(), 100)));
  }
  // By pidfd, as a trainer that ignores SIGCHLD or waits for any child has taken the status already, and the number may
  // be another process's by now.
  siginfo_t info{};
  while (::waitid(P_PIDFD, static_cast<id_t>(server_.get()), &info, WEXITED) != 0 && errno == EINTR) {
  }
}

bool ForkServer::alive() const noexcept {
  pollfd gone{server_.get(), POLLIN, 0};
  while (::poll(&gone, 1, 0) < 0 && errno == EINTR) {
  }
  return gone.revents == 0;
}

void ForkServer::call(std::uint32_t count) {
  ring_.header().target_workers.store(count, std::memory_order_seq_cst);
  ring_.header().calls.fetch_add(1, std::memory_order_seq_cst);  // who sees it sees the number
  ring_.wake_all_workers();
  poke();
}

void ForkServer::send_home() noexcept {
  call(0);
  while (ring_.header().alive_workers.load(std::memory_order_acquire) != 0 && alive()) {
    ring_.wait_for_workers_to_leave(kCrewCheck);
  }
}

void ForkServer::poke() noexcept { ::eventfd_write(commands_.get(), 1); }

}  // namespace torchfeed::loader
