#pragma once

#include <torchfeed/plugin/loader/crew.h>
#include <torchfeed/plugin/loader/worker.h>

#include <ATen/ThreadLocalState.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace torchfeed::loader {

/// Workers that are threads of the trainer's process, for datasets that wait more than they compute, share state, or
/// give batches that no codec can send. A thread cannot be killed: the end of the crew waits for batches under way.
/// ATen and OpenMP compute in each on one thread, as in worker processes; a BLAS with threads of its own does not.
/// What LibTorch keeps for each thread (grad mode, inference mode) is as it is where the crew is made, as in
/// worker processes.
class ThreadCrew final : public Crew {
 public:
  /// Starts as many threads as the ring's target_workers says. Throws std::system_error if one cannot be had.
  explicit ThreadCrew(WorkerJob job);
  ~ThreadCrew() override;

  bool alive() const noexcept override { return true; }
  /// One that was told to leave and is still at its batch keeps its number until it has left: until then there are no
  /// more than up to it. For 0 it waits for all. Throws std::system_error if a thread cannot be had.
  void call(std::uint32_t count) override;
  void send_home() noexcept override;

 private:
  struct Worker {
    std::thread thread;
    std::atomic<bool> left{true};  // or never there
  };

  void tell(std::size_t count) noexcept;
  void start(std::size_t id);

  const WorkerJob job_;
  const at::ThreadLocalState state_;              // of the thread that makes the crew
  std::vector<std::unique_ptr<Worker>> workers_;  // by number; those from called_ on have to leave
  std::size_t called_ = 0;
};

}  // namespace torchfeed::loader
