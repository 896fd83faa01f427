#include <torchfeed/plugin/loader/thread_crew.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/worker_thread.h>

#include <pthread.h>

#include <csignal>
#include <cstdio>
#include <utility>

namespace torchfeed::loader {
namespace {

void run_thread(const WorkerJob& job, int id) {
  char name[16];
  std::snprintf(name, sizeof(name), "feed-worker-%d", id);
  ::pthread_setname_np(::pthread_self(), name);
  if (!job.cpus.empty()) {
    threading::bind_current_thread(job.cpus);
  }
  threading::compute_on_this_thread_alone();
  run_worker(job, id);
}

}  // namespace

ThreadCrew::ThreadCrew(WorkerJob job) : job_(std::move(job)) {
  try {
    call();
  } catch (...) {
    send_home();
    throw;
  }
}

ThreadCrew::~ThreadCrew() { send_home(); }

void ThreadCrew::call() {
  const std::size_t target = job_.ring->header().target_workers.load(std::memory_order_relaxed);
  for (; threads_.size() > target; threads_.pop_back()) {
    threads_.back().join();  // its number, and its copy of the dataset, may be another's soon
  }
  // Signals are the trainer's: a handler that runs in a worker would surprise its author.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
    ::sigdelset(&all, own);  // crash handlers see the thread's own faults
  }
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    while (threads_.size() < target) {
      threads_.emplace_back([this, id = static_cast<int>(threads_.size())] { run_thread(job_, id); });
    }
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void ThreadCrew::send_home() noexcept {
  job_.ring->header().target_workers.store(0, std::memory_order_seq_cst);
  job_.ring->wake_all_workers();
  for (auto& thread : threads_) {
    thread.join();
  }
  threads_.clear();
}

}  // namespace torchfeed::loader
