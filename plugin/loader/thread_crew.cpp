#include <torchfeed/plugin/loader/thread_crew.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <utility>

namespace torchfeed::loader {
namespace {

void run_thread(const WorkerJob& job, const at::ThreadLocalState& state, int id) {
  char name[16];
  std::snprintf(name, sizeof(name), "feed-worker-%d", id);
  ::pthread_setname_np(::pthread_self(), name);
  threading::bind_current_thread(job.cpus);
  threading::compute_on_this_thread_alone();
  const at::ThreadLocalStateGuard like_the_trainer(state);
  // But for a profiler's part in it, which may end before this thread does.
  at::set_record_function_tls_(at::RecordFunctionTLS());
  c10::ThreadLocalDebugInfo::_forceCurrentDebugInfo(nullptr);
  run_worker(job, id);
}

/// Where workers run; a thread would inherit the one core that OpenMP may have bound the trainer to.
WorkerJob with_cpus(WorkerJob job) {
  if (job.cpus.empty()) {
    job.cpus = threading::available_cpus();
  }
  return job;
}

/// While it lives, threads that start get no signals: those are the trainer's, and a handler that runs in a worker
/// would surprise its author.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    ::sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
      ::sigdelset(&all, own);  // crash handlers see the thread's own faults
    }
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

ThreadCrew::ThreadCrew(WorkerJob job) : job_(with_cpus(std::move(job))) {
  try {
    call(job_.ring->header().target_workers.load(std::memory_order_relaxed));
  } catch (...) {
    send_home();
    throw;
  }
}

ThreadCrew::~ThreadCrew() { send_home(); }

/// Workers from `count` on leave.
void ThreadCrew::tell(std::size_t count) noexcept {
  called_ = count;
  job_.ring->header().target_workers.store(static_cast<std::uint32_t>(count), std::memory_order_seq_cst);
  job_.ring->wake_all_workers();
}

void ThreadCrew::call(std::uint32_t count) {
  if (count == 0) {
    send_home();
    return;
  }
  std::size_t most = called_;
  while (most < count && (most >= workers_.size() || workers_[most]->left.load(std::memory_order_acquire))) {
    ++most;
  }
  const std::size_t before = called_;
  tell(std::min<std::size_t>(count, most));
  const BlockSignals blocked;
  for (std::size_t id = before; id < called_; ++id) {
    try {
      start(id);
    } catch (...) {
      tell(id);
      throw;
    }
  }
}

/// Starts worker `id`, of which none is there any more.
void ThreadCrew::start(std::size_t id) {
  if (id == workers_.size()) {
    workers_.push_back(std::make_unique<Worker>());
  }
  Worker& worker = *workers_[id];
  if (worker.thread.joinable()) {
    worker.thread.join();
  }
  worker.left.store(false, std::memory_order_relaxed);
  try {
    worker.thread = std::thread([this, &worker, id] {
      run_thread(job_, state_, static_cast<int>(id));
      worker.left.store(true, std::memory_order_release);
    });
  } catch (...) {
    worker.left.store(true, std::memory_order_relaxed);
    throw;
  }
}

void ThreadCrew::send_home() noexcept {
  tell(0);
  for (auto& worker : workers_) {
    if (worker->thread.joinable()) {
      worker->thread.join();
    }
  }
  workers_.clear();
}

}  // namespace torchfeed::loader
