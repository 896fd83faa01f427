#include <torchfeed/plugin/loader/telemetry.h>

#include <utility>

namespace torchfeed::loader {

Telemetry::Telemetry(const std::string& trace_path, int workers) {
  if (!trace_path.empty()) {
    trace_ = std::make_unique<Trace>(trace_path, workers);
  }
}

void Telemetry::step_ends() {
  if (!std::exchange(in_step_, false)) {
    return;
  }
  const auto now = Clock::now();
  stats_.step_seconds += std::chrono::duration<double>(now - step_begin_).count();
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
  stats_.wait_seconds += std::chrono::duration<double>(now - begin).count();
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
  const auto duration = Clock::now() - begin;
  stats_.wait_seconds += std::chrono::duration<double>(duration).count();
  produced(-1, nanoseconds(begin), std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count(), id);
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
