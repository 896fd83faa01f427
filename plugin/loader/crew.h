#pragma once

#include <chrono>
#include <cstdint>

namespace torchfeed::loader {

/// How often one that waits for workers looks whether the crew is alive; what it waits for wakes it at once.
inline constexpr std::chrono::milliseconds kCrewCheck{100};

/// A loader's workers: processes (ForkServer) or threads (ThreadCrew), each in run_worker().
/// All methods: the trainer, one thread at a time. Destroying it ends the workers and waits for that.
class Crew {
 public:
  Crew() = default;
  virtual ~Crew() = default;
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  /// Whether dead workers are replaced. May cost a system call.
  virtual bool alive() const noexcept = 0;
  /// Brings the number of workers to `count`: sets the ring's target_workers, and there will be so many soon. Those at
  /// or above it leave after the batch that they are at.
  virtual void call(std::uint32_t count) = 0;
  /// The same for 0; returns when all have left.
  virtual void send_home() noexcept = 0;
};

}  // namespace torchfeed::loader
