#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>

#include <chrono>
#include <cstdint>
#include <vector>

namespace torchfeed::loader {

/// Spreads workers over the CPUs that they may run on, where batches are too small for Linux to do it. It moves threads
/// apart that are long ready to run at the same time. A trainer and workers that wait for each other every few
/// microseconds seldom are, so that two of them stay on one CPU for seconds while another idles: 12 us a batch instead
/// of 1.5. So each worker begins on a CPU of its own, away from the trainer's, and leaves one that it shares while
/// another has nobody of this loader. It is not bound: its mask is what it was.
///
/// Made and used by the worker's thread.
class WorkerPlace {
 public:
  using Clock = std::chrono::steady_clock;

  /// Moves the calling thread, worker `id`. Does nothing where the mask leaves no choice or cannot be had.
  WorkerPlace(SlotRing& ring, int id, Clock::time_point now) noexcept;
  ~WorkerPlace();
  WorkerPlace(const WorkerPlace&) = delete;
  WorkerPlace& operator=(const WorkerPlace&) = delete;

  /// Before each batch.
  void look(Clock::time_point now) noexcept;

 private:
  int crowd(int cpu) const noexcept;
  void leave_crowd() noexcept;
  void move_to(int cpu) noexcept;

  RingHeader& header_;
  std::uint32_t id_;
  std::vector<int> cpus_;  // fewer than two: stays
  int batches_ = 0;        // since it looked
  Clock::time_point looked_;
};

}  // namespace torchfeed::loader
