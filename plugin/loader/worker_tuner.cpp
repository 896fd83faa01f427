#include <torchfeed/plugin/loader/worker_tuner.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

namespace torchfeed::loader {
namespace {

// What the trainer pays for a batch that was made elsewhere.
constexpr double kHandOver = 1.5e-6;
// To find out how many workers there may be: the machine's topology and limits have to be read.
constexpr double kAskSeconds = 3e-3;
// A gain below this is not worth workers: of two numbers that are this near, the smaller is taken.
constexpr double kGain = 0.03;
// Nor is a worker that is to give less than this of the best.
constexpr double kSame = 0.01;
// A number that was faster by more than this when it was tried is gone back to.
constexpr double kRegret = 0.05;
// A trial whose gain cannot be foretold may cost this share of the time so far.
constexpr double kCuriosity = 0.05;
// Costs that differ by more than this share of a batch's time, twice in a row, have changed.
constexpr double kChange = 0.25;
// So have they where the trainer waits for workers by this share longer.
constexpr double kMoreWaiting = 0.1;

constexpr std::uint64_t kInlineBatches = 3;
constexpr std::uint64_t kTrialBatches = 8;
constexpr double kTrialSeconds = 0.02;
constexpr double kSettlingSeconds = 0.008;
// The first workers are slow for longer: the slots' memory is new, and so are OpenBLAS's threads, which the fork has
// ended and which spin on a core until they have found nothing to do.
constexpr double kStartingSeconds = 0.06;
constexpr std::uint64_t kStartingRounds = 3;  // of what is under way, so that each slot has been used
// They are still getting faster while each window takes less than the one before by this share.
constexpr double kWarming = 0.05;
// A number that is within this share of another is measured for longer, which costs next to nothing: what a few
// milliseconds of another process take may be more than workers give.
constexpr double kClose = 0.1;
constexpr double kCloseSeconds = 0.1;
constexpr std::uint64_t kWatchBatches = 50;
constexpr double kWatchSeconds = 0.25;
constexpr std::uint64_t kMostPatience = 8;
constexpr int kCalmWindows = 10;

std::string duration(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g %s", seconds < 1e-3 ? seconds * 1e6 : seconds * 1e3,
                seconds < 1e-3 ? "us" : "ms");
  return text;
}

}  // namespace

int WorkerTuner::look(const TunerReading& now) {
  if (!window_is_full(now)) {
    return workers_;
  }
  if (std::exchange(settling_, false)) {
    if (results_.empty()) {
      regime_ = now;  // the very first batch is not like the others
    }
    const bool inline_first = results_.empty();  // a prediction needs less than a comparison
    open_window(now, inline_first ? kInlineBatches : std::max<std::uint64_t>(kTrialBatches, 2 * workers_),
                inline_first ? 0 : kTrialSeconds);
    return workers_;
  }
  return judge(now, since_window(now));
}

WorkerTuner::Result WorkerTuner::since_window(const TunerReading& now) const {
  const auto batches = static_cast<double>(now.batches - window_.batches);
  const double seconds = now.seconds - window_.seconds;
  return {seconds / batches, (now.step_seconds - window_.step_seconds) / batches,
          (now.produce_seconds - window_.produce_seconds) / batches,
          now.batches - window_.batches >= kTrialBatches && seconds >= kTrialSeconds};
}

/// From now on, until there are so many batches and seconds.
void WorkerTuner::open_window(const TunerReading& now, std::uint64_t batches, double seconds) {
  window_ = now;
  window_batches_ = batches;
  window_seconds_ = seconds;
  next_look_ = now.batches + batches;
}

/// Else says when to look again.
bool WorkerTuner::window_is_full(const TunerReading& now) {
  const std::uint64_t batches = now.batches - window_.batches;
  const double seconds = now.seconds - window_.seconds;
  if (batches >= window_batches_ && seconds >= window_seconds_) {
    return true;
  }
  // As many batches more as the time left takes at this pace, but no more than there were, as the pace may change.
  const double missing = seconds > 0 ? (window_seconds_ - seconds) / seconds : 1;
  const double more = std::clamp(missing, 0.1, 1.0) * static_cast<double>(batches);
  next_look_ = std::max(window_.batches + window_batches_,
                        now.batches + std::max<std::uint64_t>(1, static_cast<std::uint64_t>(more)));
  return false;
}

int WorkerTuner::judge(const TunerReading& now, const Result& result) {
  if (!settled_) {
    if (is_warming_up(result)) {
      open_window(now, std::max<std::uint64_t>(kTrialBatches, 2 * workers_), kTrialSeconds);
      return workers_;
    }
    if (is_close_call(now, result)) {
      window_seconds_ = kCloseSeconds;
      static_cast<void>(window_is_full(now));  // the same one goes on
      return workers_;
    }
    results_[workers_] = result;
    if (workers_ > 0) {
      return judge_workers(now, result);
    }
    return results_.size() == 1 ? judge_inline(now, result) : settle(now);
  }
  const bool changed = costs_changed(result);
  const bool suspicious = changed || was_faster_elsewhere(result);
  results_[workers_] = result;
  suspicions_ = suspicious ? suspicions_ + 1 : 0;
  const bool sure = suspicions_ >= (settled_result_.sure ? 2 : 1);
  if (sure && changed) {
    if (settled_result_.sure) {
      patience_ = std::min(2 * patience_, kMostPatience);
    }
    settled_ = false;
    results_.clear();
    regime_ = window_;
    return judge(now, result);
  }
  if (sure) {
    return settle(now);
  }
  calm_windows_ = suspicious ? 0 : calm_windows_ + 1;
  if (calm_windows_ >= kCalmWindows) {
    patience_ = 1;
  }
  watch(now);
  return workers_;
}

/// Whether the first workers, no faster than none so far, may yet become so.
bool WorkerTuner::is_warming_up(const Result& result) {
  const auto none = results_.find(0);
  if (!first_seconds_ || none == results_.end() || result.seconds < none->second.seconds * (1 - kGain)) {
    return false;
  }
  return result.seconds < std::exchange(*first_seconds_, result.seconds) * (1 - kWarming);
}

/// Whether the window has to go on to tell which of two numbers is the faster.
bool WorkerTuner::is_close_call(const TunerReading& now, const Result& result) const {
  return now.seconds - window_.seconds < kCloseSeconds &&
         std::any_of(results_.begin(), results_.end(), [this, &result](const auto& other) {
           return other.first != workers_ && std::abs(result.seconds / other.second.seconds - 1) < kClose;
         });
}

/// Opens the next window while the number is settled: a short one where that was found by few batches.
void WorkerTuner::watch(const TunerReading& now) {
  if (settled_result_.sure) {
    open_window(now, patience_ * kWatchBatches, static_cast<double>(patience_) * kWatchSeconds);
  } else {
    settled_result_ = results_[workers_];
    open_window(now, kTrialBatches, kTrialSeconds);
  }
}

/// Whether batches or steps cost something else than when the number of workers was found.
bool WorkerTuner::costs_changed(const Result& result) const {
  const double scale = std::max(result.seconds, settled_result_.seconds);
  const double most = kChange * scale;
  const double waiting = (result.seconds - result.step) - (settled_result_.seconds - settled_result_.step);
  return (workers_ > 0 && waiting > kMoreWaiting * scale) ||
         std::abs(result.produce - settled_result_.produce) > most * std::max(workers_, 1) ||
         std::abs(result.step - settled_result_.step) > most ||
         std::abs(result.seconds - settled_result_.seconds) > most;
}

/// Whether another number of workers was clearly faster when it was tried.
bool WorkerTuner::was_faster_elsewhere(const Result& result) const {
  return std::any_of(results_.begin(), results_.end(), [this, &result](const auto& other) {
    return other.first != workers_ && other.second.seconds < result.seconds * (1 - kRegret);
  });
}

// ---- Without workers ----

/// A batch's time with so many workers, if there are cores for all: the slowest of training, workers, handing over.
double WorkerTuner::predicted(const Result& result, int workers) const {
  const double training = std::max(result.seconds - result.produce, 0.0);
  return std::max({training, result.produce / workers, kHandOver});
}

/// The smallest number of workers that should be about the best.
int WorkerTuner::guess(const Result& result) const {
  const double best = predicted(result, limits_->most_workers);
  int workers = 1;
  while (workers < limits_->most_workers && predicted(result, workers) > best * (1 + kSame)) {
    ++workers;
  }
  return workers;
}

double WorkerTuner::start_cost(int workers) const {
  return limits_->start_seconds + limits_->worker_seconds * (workers - 1);
}

/// As many workers as would have paid by now; 0: none would.
int WorkerTuner::affordable(const Result& result, double batches) const {
  for (int workers = guess(result); workers > 0; --workers) {
    const double gain = result.seconds - predicted(result, workers);
    if (gain > kGain * result.seconds && gain * batches >= start_cost(workers)) {
      return workers;
    }
  }
  return 0;
}

int WorkerTuner::judge_inline(const TunerReading& now, const Result& result) {
  if (limits_ && limits_->most_workers < 1) {
    return settle(now);
  }
  const auto batches = static_cast<double>(now.batches - regime_.batches);
  const double elapsed = now.seconds - regime_.seconds;
  if (result.produce < kGain * result.seconds) {
    return settle(now);  // nothing to be gained
  }
  if (!limits_) {
    // Training alone would be left if workers took all the rest.
    const double most = result.seconds - std::max(result.seconds - result.produce, kHandOver);
    if (most * batches >= kAskSeconds || kCuriosity * elapsed >= kAskSeconds) {
      limits_ = ask_limits_();
      const int workers = judge_inline(now, result);
      if (workers == 0 && !settled_) {
        settling_ = true;  // the next batch's time has that of asking in it
        open_window(now, 1, 0);
      }
      return workers;
    }
  } else {
    if (const int workers = affordable(result, batches); workers > 0) {
      return change(now, workers, "a batch takes " + duration(result.produce) + " of " + duration(result.seconds));
    }
    const bool hopeless = result.seconds - predicted(result, guess(result)) <= kGain * result.seconds;
    if (hopeless && kCuriosity * elapsed >= start_cost(1)) {
      return change(now, 1, "there is time to try");
    }
  }
  // The same window goes on, until it tells more or it is time.
  window_batches_ = now.batches - window_.batches;
  next_look_ = now.batches + std::max<std::uint64_t>(1, window_batches_ / 4);
  return workers_;
}

// ---- With workers ----

int WorkerTuner::judge_workers(const TunerReading& now, const Result& result) {
  if (const auto trial = next_trial(result)) {
    return change(now, *trial,
                  std::to_string(workers_) + " take " + duration(result.seconds) + " a batch, of which " +
                      duration(result.seconds - result.step) + " waiting");
  }
  return settle(now);
}

/// The next number of workers that may be better than all that were tried.
std::optional<int> WorkerTuner::next_trial(const Result& result) const {
  const auto untried = [this](int workers) {
    const auto found = results_.find(workers);
    return found == results_.end() || !found->second.sure;
  };
  for (const auto& [workers, other] : results_) {
    if (other.seconds < result.seconds * (1 - kGain)) {
      // This was a step in the wrong direction. Or one too long, where none are the best so far.
      const int fewer = workers == 0 ? workers_ / 2 : 0;
      return fewer > 0 && untried(fewer) ? std::optional(fewer) : std::nullopt;
    }
  }
  const bool waits = result.seconds - result.step > kGain * result.seconds;
  const double pace = result.produce / std::max(result.step, kHandOver);  // workers that keep up with training
  if (waits && workers_ < limits_->most_workers && pace > workers_ / 2.0) {
    const int most = std::min(2 * workers_, limits_->most_workers);
    const int more = std::clamp(static_cast<int>(std::ceil(std::min<double>(pace, most))), workers_ + 1, most);
    if (untried(more)) {
      return more;
    }
  }
  // Fewer, where they would still keep up, leave the trainer more of the machine.
  if (workers_ == 1) {
    const bool keeps_up = result.step + result.produce <= result.seconds * (1 + kGain);
    return keeps_up && untried(0) ? std::optional(0) : std::nullopt;
  }
  const double enough = std::ceil(result.produce / (result.seconds * (1 + kGain)));
  const int fewer = std::max(1, std::min(static_cast<int>(enough), workers_ - 1));
  return enough < workers_ && untried(fewer) ? std::optional(fewer) : std::nullopt;
}

int WorkerTuner::settle(const TunerReading& now) {
  double best = std::numeric_limits<double>::max();
  for (const auto& [workers, result] : results_) {
    best = std::min(best, result.seconds);
  }
  const auto chosen = std::find_if(results_.begin(), results_.end(),
                                   [best](const auto& result) { return result.second.seconds <= best * (1 + kGain); });
  settled_ = true;
  suspicions_ = 0;
  settled_result_ = chosen->second;
  const int workers = chosen->first;
  if (workers != workers_) {
    return change(now, workers,
                  std::to_string(workers) + " took " + duration(chosen->second.seconds) + " a batch, " +
                      std::to_string(workers_) + " take " + duration(results_[workers_].seconds));
  }
  watch(now);
  return workers_;
}

int WorkerTuner::change(const TunerReading& now, int workers, std::string reason) {
  reason_ = std::move(reason);
  // What is under way was asked for under the old number.
  const auto most = static_cast<std::uint64_t>(std::max(workers, workers_));
  const std::uint64_t usual = limits_->jobs > 0 ? limits_->jobs : limits_->jobs_a_worker * most;
  const std::uint64_t under_way = std::max(usual, now.under_way) + 1;
  const bool first = workers_ == 0;
  first_seconds_ = first ? std::optional(std::numeric_limits<double>::max()) : std::nullopt;
  workers_ = workers;
  settling_ = true;
  open_window(now, first ? kStartingRounds * under_way : under_way, first ? kStartingSeconds : kSettlingSeconds);
  return workers_;
}

}  // namespace torchfeed::loader
