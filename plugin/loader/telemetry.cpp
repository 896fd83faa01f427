#include <torchfeed/plugin/loader/telemetry.h>

#include <time.h>

#include <algorithm>
#include <fstream>
#include <utility>

namespace torchfeed::loader {
namespace {

constexpr std::size_t kMostChanges = 100;
// Reading what a thread uses of the cores takes system calls. The first batch is not like the others.
constexpr int kCoreBatches = 16;
// A step this many times longer than usual is no training: a checkpoint is written, the model evaluated.
constexpr double kPause = 10;
constexpr double kLeastPauseSeconds = 0.05;

double seconds_between(Telemetry::Clock::time_point begin, Telemetry::Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

Telemetry::Telemetry(const std::string& trace_path) {
  if (!trace_path.empty()) {
    trace_ = std::make_unique<Trace>(trace_path);
  }
}

void Telemetry::workers_start(int count) {
  if (trace_) {
    trace_->name_workers(count);
  }
}

void Telemetry::epoch_begins() {
  if (std::exchange(in_epoch_, true)) {
    seconds_ += seconds_between(epoch_begin_, last_);
  }
  in_step_ = false;
  epoch_begin_ = last_ = Clock::now();
}

void Telemetry::epoch_ends() {
  if (std::exchange(in_epoch_, false)) {
    seconds_ += seconds_between(epoch_begin_, Clock::now());
  }
  flush();
}

void Telemetry::step_ends() {
  if (!std::exchange(in_step_, false)) {
    return;
  }
  const auto now = Clock::now();
  const double step = seconds_between(step_begin_, now);
  stats_.step_seconds += step;
  if (step > kLeastPauseSeconds && usual_steps_ > 3 && step * usual_steps_ > kPause * usual_seconds_) {
    pauses_ += step;
    usual_steps_ /= 2;  // what is usual may have changed
    usual_seconds_ /= 2;
  } else {
    ++usual_steps_;
    usual_seconds_ += step;
  }
  last_ = now;
  if (trace_) {
    trace_->span("step", Trace::kTrainer, nanoseconds(step_begin_), nanoseconds(now) - nanoseconds(step_begin_),
                 step_of_.epoch, step_of_.batch);
  }
}

void Telemetry::handed_out(const BatchId& id) {
  ++stats_.batches;
  in_step_ = true;
  step_of_ = id;
  step_begin_ = last_ = Clock::now();
}

void Telemetry::waited(Clock::time_point begin, const BatchId& id) {
  const auto now = Clock::now();
  stats_.wait_seconds += seconds_between(begin, now);
  if (trace_) {
    trace_->span("wait", Trace::kTrainer, nanoseconds(begin), nanoseconds(now) - nanoseconds(begin), id.epoch,
                 id.batch);
  }
}

void Telemetry::produced(int worker, std::int64_t begin, std::int64_t nanoseconds, const BatchId& id) {
  stats_.produce_seconds += static_cast<double>(nanoseconds) * 1e-9;
  if (trace_) {
    trace_->span("produce", worker + 1, begin, nanoseconds, id.epoch, id.batch);
  }
}

void Telemetry::made_inline(Clock::time_point begin, const BatchId& id) {
  const auto now = Clock::now();
  stats_.wait_seconds += seconds_between(begin, now);
  produced(-1, nanoseconds(begin), nanoseconds(now) - nanoseconds(begin), id);
}

std::optional<double> Telemetry::core_seconds() const {
  if (core_batches_ >= kCoreBatches) {
    return std::nullopt;
  }
  timespec cpu{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  double queued = 0;  // nanoseconds
  std::ifstream("/proc/thread-self/schedstat") >> queued >> queued;
  return static_cast<double>(cpu.tv_sec) + (static_cast<double>(cpu.tv_nsec) + queued) * 1e-9;
}

void Telemetry::used_core(Clock::time_point begin, double core_begin) {
  const double seconds = seconds_between(begin, Clock::now());
  const double core = core_seconds().value_or(core_begin) - core_begin;
  if (core_batches_++ > 0) {
    core_seconds_ += core;
    core_wall_seconds_ += seconds;
  }
}

double Telemetry::computing() const noexcept {
  return core_wall_seconds_ > 0 ? std::clamp(core_seconds_ / core_wall_seconds_, 0.0, 1.0) : 1;
}

void Telemetry::workers_change(int from, int to, const std::string& reason) {
  auto& changes = stats_.worker_changes;
  if (changes.size() == kMostChanges) {
    changes.erase(changes.begin());
  }
  changes.push_back({stats_.batches, from, to, reason});
  if (trace_) {
    trace_->instant("workers " + std::to_string(from) + " to " + std::to_string(to) + ": " + reason, Trace::kTrainer,
                    nanoseconds(Clock::now()));
  }
}

TunerReading Telemetry::reading() {
  last_ = Clock::now();
  const double now = in_epoch_ ? seconds_between(epoch_begin_, last_) : 0;
  return {stats_.batches, seconds_ + now - pauses_, stats_.step_seconds - pauses_, stats_.produce_seconds};
}

void Telemetry::restarts(std::uint64_t count) {
  if (count != stats_.worker_restarts) {
    stats_.worker_restarts = count;
    if (trace_) {
      trace_->instant("worker restart", Trace::kTrainer, nanoseconds(Clock::now()));
    }
  }
}

void Telemetry::flush() {
  if (trace_) {
    trace_->flush();
  }
}

}  // namespace torchfeed::loader
