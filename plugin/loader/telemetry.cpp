#include <torchfeed/plugin/loader/telemetry.h>

#include <time.h>

#include <algorithm>
#include <utility>

namespace torchfeed::loader {
namespace {

constexpr std::size_t kMostChanges = 100;
// Reading a thread's CPU time is a system call.
constexpr int kCpuBatches = 16;

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
    seconds_ += seconds_between(epoch_begin_, std::max(epoch_begin_, step_begin_));
  }
  in_step_ = false;
  epoch_begin_ = Clock::now();
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
  stats_.step_seconds += seconds_between(step_begin_, now);
  if (trace_) {
    trace_->span("step", Trace::kTrainer, nanoseconds(step_begin_), nanoseconds(now) - nanoseconds(step_begin_),
                 step_of_.epoch, step_of_.batch);
  }
}

void Telemetry::handed_out(const BatchId& id) {
  ++stats_.batches;
  in_step_ = true;
  step_of_ = id;
  step_begin_ = Clock::now();
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

void Telemetry::made_inline(Clock::time_point begin, double cpu_begin, const BatchId& id) {
  const auto now = Clock::now();
  const double seconds = seconds_between(begin, now);
  stats_.wait_seconds += seconds;
  if (cpu_batches_ < kCpuBatches) {
    cpu_seconds_ += cpu_seconds() - cpu_begin;
    cpu_wall_seconds_ += seconds;
    ++cpu_batches_;
  }
  produced(-1, nanoseconds(begin), nanoseconds(now) - nanoseconds(begin), id);
}

double Telemetry::cpu_seconds() const noexcept {
  timespec now{};
  if (cpu_batches_ < kCpuBatches) {
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  }
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double Telemetry::computing() const noexcept {
  return cpu_wall_seconds_ > 0 ? std::clamp(cpu_seconds_ / cpu_wall_seconds_, 0.0, 1.0) : 1;
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

TunerReading Telemetry::reading() const {
  const double now = in_epoch_ ? seconds_between(epoch_begin_, Clock::now()) : 0;
  return {stats_.batches, seconds_ + now, stats_.step_seconds, stats_.produce_seconds};
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
