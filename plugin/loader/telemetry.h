#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>
#include <torchfeed/plugin/loader/trace.h>
#include <torchfeed/plugin/loader_stats.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace torchfeed::loader {

/// What a loader tells of itself: its statistics and, if asked for, a trace. The trainer, one thread at a time.
class Telemetry {
 public:
  using Clock = std::chrono::steady_clock;

  /// `trace_path`: empty for none. Throws as Trace.
  Telemetry(const std::string& trace_path, int workers);

  LoaderStats& stats() noexcept { return stats_; }
  const LoaderStats& stats() const noexcept { return stats_; }

  /// The training loop asks for a batch: its step has ended.
  void step_ends();
  /// The training loop has batch `id`, and begins its step.
  void handed_out(const BatchId& id);
  /// The loop was left early: what follows is no step.
  void no_step() noexcept { in_step_ = false; }

  /// The trainer waited for batch `id` from `begin` until now.
  void waited(Clock::time_point begin, const BatchId& id);
  /// `worker` made batch `id`.
  void produced(int worker, std::int64_t begin, std::int64_t nanoseconds, const BatchId& id);
  /// The trainer itself made batch `id`, from `begin` until now.
  void made_inline(Clock::time_point begin, const BatchId& id);
  /// As many workers as that have been replaced by now.
  void restarts(std::uint64_t count);
  /// Writes the trace's events to its file.
  void flush();

 private:
  static std::int64_t nanoseconds(Clock::time_point time) noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  }

  LoaderStats stats_;
  std::unique_ptr<Trace> trace_;
  bool in_step_ = false;
  Clock::time_point step_begin_;
  BatchId step_of_;
};

}  // namespace torchfeed::loader
