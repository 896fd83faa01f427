#pragma once

#include <torchfeed/plugin/loader/crew.h>
#include <torchfeed/plugin/loader/worker.h>

#include <thread>
#include <vector>

namespace torchfeed::loader {

/// Workers that are threads of the trainer's process, for datasets that wait more than they compute, share state, or
/// give batches that no codec can send. A thread cannot be killed: the end of the crew waits for batches under way.
/// ATen and OpenMP compute in each on one thread, as in worker processes; a BLAS with threads of its own does not.
class ThreadCrew final : public Crew {
 public:
  /// Starts as many threads as the ring's target_workers says. Throws std::system_error if one cannot be had.
  explicit ThreadCrew(WorkerJob job);
  ~ThreadCrew() override;

  bool alive() const noexcept override { return true; }
  void call() override;
  void send_home() noexcept override;

 private:
  const WorkerJob job_;
  std::vector<std::thread> threads_;
};

}  // namespace torchfeed::loader
