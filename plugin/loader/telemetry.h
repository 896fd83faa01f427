#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>
#include <torchfeed/plugin/loader/trace.h>
#include <torchfeed/plugin/loader/worker_tuner.h>
#include <torchfeed/plugin/loader_stats.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace torchfeed::loader {

/// What a loader tells of itself: its statistics and, if asked for, a trace. The trainer, one thread at a time.
class Telemetry {
 public:
  using Clock = std::chrono::steady_clock;

  /// `trace_path`: empty for none. Throws as Trace.
  explicit Telemetry(const std::string& trace_path);

  LoaderStats& stats() noexcept { return stats_; }
  const LoaderStats& stats() const noexcept { return stats_; }

  /// There may be so many workers from now on.
  void workers_start(int count);
  /// An epoch begins, and with it the loop's time; one that was left early ended with its last batch.
  void epoch_begins();
  void epoch_ends();
  /// The training loop asks for a batch: its step has ended.
  void step_ends();
  /// The training loop has batch `id`, and begins its step.
  void handed_out(const BatchId& id);
  /// The trainer waited for batch `id` from `begin` until now.
  void waited(Clock::time_point begin, const BatchId& id);
  /// `worker` made batch `id`.
  void produced(int worker, std::int64_t begin, std::int64_t nanoseconds, const BatchId& id);
  /// The trainer itself made batch `id`, from `begin` until now.
  void made_inline(Clock::time_point begin, const BatchId& id);
  /// Time in which this thread has had, or has wanted, a core, in seconds; none once enough batches were measured.
  std::optional<double> core_seconds() const;
  /// A batch was made inline, from `begin` until now, and core_seconds() was `core_begin` before.
  void used_core(Clock::time_point begin, double core_begin);
  /// Share of those batches' time in which this thread used a core, 0 to 1; 1 if there were none.
  double computing() const noexcept;
  /// As many workers as that have been replaced by now.
  void restarts(std::uint64_t count);
  /// The number of workers changes.
  void workers_change(int from, int to, const std::string& reason);
  /// What there is to decide that by.
  TunerReading reading();
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
  bool in_epoch_ = false;
  Clock::time_point epoch_begin_;
  double seconds_ = 0;        // of epochs before this one
  Clock::time_point last_;    // that the loop was here
  double usual_steps_ = 0;    // how many
  double usual_seconds_ = 0;  // of them
  double pauses_ = 0;         // steps that were no training
  int core_batches_ = 0;
  double core_seconds_ = 0;  // of them
  double core_wall_seconds_ = 0;
  BatchId step_of_;
};

}  // namespace torchfeed::loader
