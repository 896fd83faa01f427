#include "chaos/worker_killer.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

namespace torchfeed::chaos {
namespace {

constexpr int kStopFirst = 0;  // stands for SIGSTOP and then SIGKILL
constexpr int kWays[] = {SIGKILL, SIGSEGV, SIGABRT, kStopFirst};
constexpr std::chrono::milliseconds kStopped{5};

/// A process that cannot turn into another one: numbers are used again, and this runs as root on people's machines.
class Victim {
 public:
  explicit Victim(pid_t pid) : descriptor_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  ~Victim() {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  void signal(int number) const { ::syscall(SYS_pidfd_send_signal, descriptor_, number, nullptr, 0); }
  bool found() const { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

}  // namespace

std::vector<pid_t> listed_children(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code gone;
  const std::filesystem::path tasks = "/proc/" + std::to_string(parent) + "/task";
  for (std::filesystem::directory_iterator task(tasks, gone), end; !gone && task != end; task.increment(gone)) {
    std::ifstream file(task->path() / "children");
    for (pid_t child = 0; file >> child;) {
      children.push_back(child);
    }
  }
  return children;
}

WorkerKiller::WorkerKiller(std::atomic<std::uint64_t>& kills, std::uint64_t seed, std::chrono::microseconds pause)
    : kills_(kills), random_(seed), pause_(pause), thread_([this] { run(); }) {}

WorkerKiller::~WorkerKiller() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void WorkerKiller::run() {
  while (!pause(pause_)) {
    strike();
  }
}

bool WorkerKiller::pause(std::chrono::microseconds mean) {
  std::exponential_distribution<double> time(1.0 / static_cast<double>(mean.count()));
  const std::chrono::microseconds length(static_cast<std::int64_t>(time(random_)));
  std::unique_lock<std::mutex> lock(mutex_);
  return wake_.wait_for(lock, length, [this] { return stop_; });
}

void WorkerKiller::strike() {
  const std::vector<pid_t> servers = listed_children(::getpid());
  std::vector<pid_t> workers = servers.size() == 1 ? listed_children(servers[0]) : std::vector<pid_t>();
  const auto dying = [this](pid_t pid) { return std::find(struck_.begin(), struck_.end(), pid) != struck_.end(); };
  struck_.erase(
      std::remove_if(struck_.begin(), struck_.end(),
                     [&](pid_t pid) { return std::find(workers.begin(), workers.end(), pid) == workers.end(); }),
      struck_.end());
  workers.erase(std::remove_if(workers.begin(), workers.end(), dying), workers.end());
  if (workers.empty()) {
    return;  // the loader is on its way out, or its workers are
  }
  const pid_t pid = workers[random_() % workers.size()];
  const Victim victim(pid);
  const std::vector<pid_t> now = listed_children(servers[0]);
  if (!victim.found() || std::find(now.begin(), now.end(), pid) == now.end()) {
    return;
  }
  struck_.push_back(pid);
  kills_.fetch_add(1);  // first, so that nobody sees more replacements than deaths
  const int way = kWays[random_() % std::size(kWays)];
  if (way != kStopFirst) {
    victim.signal(way);
    return;
  }
  victim.signal(SIGSTOP);
  pause(kStopped);
  victim.signal(SIGKILL);
}

}  // namespace torchfeed::chaos
