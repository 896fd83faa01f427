#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace torchfeed::loader {

/// What a training loop has measured so far, as sums since the loader was made.
struct TunerReading {
  std::uint64_t batches = 0;    ///< handed out
  double seconds = 0;           ///< of the loop: waiting and training, without pauses between epochs
  double step_seconds = 0;      ///< of them, training
  double produce_seconds = 0;   ///< making batches, summed over workers
  std::uint64_t under_way = 0;  ///< batches that workers were asked for and that are to be handed out still
};

/// What workers may cost.
struct TunerLimits {
  int most_workers = 0;
  double start_seconds = 0;         ///< until the first worker works
  double worker_seconds = 0;        ///< each further one
  std::uint64_t jobs_a_worker = 2;  ///< batches under way
  std::uint64_t jobs = 0;           ///< the same, whatever the number of workers; 0: jobs_a_worker
};

/// Finds the number of workers with which a training loop goes fastest, while it runs: num_workers(kAuto).
///
/// It begins with none, and knows from the first batches what a batch and a step cost. Workers are started once what
/// they would have saved so far is as much as they cost, so that at worst (the loop ends then) the loop has lost that
/// cost once. Then the loop's own speed decides: each number that may be better is tried for some batches, and the
/// smallest of the best stays. When the cost of a batch or of a step changes for good, it looks again.
///
/// A pure function of its readings: it has no clock of its own.
class WorkerTuner {
 public:
  /// `limits` is asked for once, when workers would pay.
  explicit WorkerTuner(std::function<TunerLimits()> limits) : ask_limits_(std::move(limits)) {}

  /// Number of batches at which look() wants to be called.
  std::uint64_t next_look() const noexcept { return next_look_; }

  /// Workers that the loop should have from now on.
  int look(const TunerReading& now);

  /// Why the last look() changed the number, as a phrase.
  const std::string& reason() const noexcept { return reason_; }

 private:
  /// What was measured with a number of workers, a batch.
  struct Result {
    double seconds = 0;
    double step = 0;
    double produce = 0;
    bool sure = false;  // of enough batches
  };

  Result since_window(const TunerReading& now) const;
  void open_window(const TunerReading& now, std::uint64_t batches, double seconds);
  bool window_is_full(const TunerReading& now);
  int judge(const TunerReading& now, const Result& result);
  bool is_warming_up(const Result& result);
  bool is_close_call(const TunerReading& now, const Result& result) const;
  int judge_inline(const TunerReading& now, const Result& result);
  int judge_workers(const TunerReading& now, const Result& result);
  std::optional<int> next_trial(const Result& result) const;
  void watch(const TunerReading& now);
  bool costs_changed(const Result& result) const;
  bool was_faster_elsewhere(const Result& result) const;
  int change(const TunerReading& now, int workers, std::string reason);
  int settle(const TunerReading& now);
  double predicted(const Result& result, int workers) const;
  int guess(const Result& result) const;
  int affordable(const Result& result, double batches) const;
  double start_cost(int workers) const;

  std::function<TunerLimits()> ask_limits_;
  std::optional<TunerLimits> limits_;
  int workers_ = 0;
  bool settled_ = false;
  std::optional<double> first_seconds_;  // a batch, in the last window of the first workers' trial
  std::map<int, Result> results_;        // by number of workers, while costs are what they are
  Result settled_result_;
  int suspicions_ = 0;  // windows in a row that say that it is not the right number any more
  int calm_windows_ = 0;
  std::uint64_t patience_ = 1;  // how many times longer than usual it watches, as costs change again and again

  TunerReading window_;  // where it begins
  std::uint64_t window_batches_ = 1;
  double window_seconds_ = 0;
  bool settling_ = true;  // the window measures nothing: what was made before the change is still to come
  TunerReading regime_;   // where costs became what they are
  std::uint64_t next_look_ = 1;
  std::string reason_;
};

}  // namespace torchfeed::loader
