#include "limits.h"

#include <torchfeed/plugin/stack.h>

#include <ATen/Parallel.h>
#include <torch/data.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

namespace torchfeed::bench {
namespace {

/// No loader: batches are made where they are asked for, by `make(indices)`, and dropped.
template <typename Make>
class WorkAlone final : public compare::MeasuredLoader {
 public:
  WorkAlone(Make make, std::size_t batch_size) : make_(std::move(make)), indices_(batch_size) {}
  ~WorkAlone() override { at::set_num_threads(threads_before_); }

  void make() override { at::set_num_threads(1); }
  bool begin(std::size_t batches) override {
    left_ = batches;
    return next();
  }
  std::size_t step() override { return indices_.size(); }
  bool next() override {
    if (left_ == 0) {
      return false;
    }
    --left_;
    for (std::size_t& index : indices_) {
      index = next_++;
    }
    make_(indices_);
    return true;
  }
  void finish() override { left_ = 0; }
  LoaderStats stats() const override { return {}; }

 private:
  Make make_;
  std::vector<std::size_t> indices_;
  std::size_t left_ = 0;
  std::size_t next_ = 0;
  const int threads_before_ = at::get_num_threads();
};

template <typename Make>
std::unique_ptr<compare::MeasuredLoader> work(Make make, std::size_t batch_size) {
  return std::make_unique<WorkAlone<Make>>(std::move(make), batch_size);
}

std::unique_ptr<compare::MeasuredLoader> make_work(const Task& task) {
  switch (task.workload) {
    case Workload::kWindows:
    case Workload::kWindowsBatch:
      return work([buffer = window_buffer(task.batch_size)](
                      const auto& indices) mutable { gather_windows(indices, buffer.data()); },
                  task.batch_size);
    case Workload::kImagesConverter:
      return work([dataset = Samples(task.workload).map(image_converter())](
                      const auto& indices) mutable { dataset.get_batch(indices); },
                  task.batch_size);
    default:
      return work([dataset = Samples(task.workload).map(Stack<torch::data::TensorExample>())](
                      const auto& indices) mutable { dataset.get_batch(indices); },
                  task.batch_size);
  }
}

bool is_memcpy(Workload workload) { return workload == Workload::kWindows || workload == Workload::kWindowsBatch; }

std::string text_of(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", number);
  return text;
}

}  // namespace

std::optional<compare::Candidate> work_alone(const Task& task, double seconds) {
  if (task.workload == Workload::kNoop || waiting_ms(task.workload) > 0) {
    return std::nullopt;
  }
  compare::RunPlan plan;
  plan.seconds = seconds;
  const char* name = is_memcpy(task.workload) ? "limit: memcpy alone" : "limit: work alone";
  return compare::Candidate{.name = name, .make = [task] { return make_work(task); }, .plan = plan, .competes = false};
}

std::optional<Limit> limit_of(const Task& task, std::int64_t workers, int cores, const LoaderFigures* alone) {
  const double waiting = waiting_ms(task.workload);
  if (waiting == 0 && (alone == nullptr || alone->samples_per_second == 0)) {
    return std::nullopt;
  }
  const auto batch = static_cast<double>(task.batch_size);
  const double step = 1e-3 * task.step_ms;
  const bool memcpy_alone = is_memcpy(task.workload);
  // Samples a second, if a sample's work takes `work` seconds of one worker.
  const auto pace = [&](double work) {
    work *= batch;
    if (workers == 0) {
      return batch / (work + step);
    }
    if (memcpy_alone) {
      return batch / std::max(work, step);
    }
    const auto most = static_cast<double>(workers);
    if (waiting > 0) {
      return batch / std::max(work / most, step);
    }
    return batch / std::max({work / std::min<double>(most, cores), step, (work + step) / cores});
  };
  Limit limit;
  LoaderFigures& figures = limit.figures;
  if (waiting > 0) {
    figures.samples_per_second = figures.samples_per_second_low = figures.samples_per_second_high =
        pace(1e-3 * waiting);
    limit.how = "ideal: " + text_of(waiting) + " ms of waiting a sample / workers";
  } else {
    figures.samples_per_second = pace(1 / alone->samples_per_second);
    figures.samples_per_second_low = pace(1 / alone->samples_per_second_low);
    figures.samples_per_second_high = pace(1 / alone->samples_per_second_high);
    figures.repeats = alone->repeats;
    figures.batches = alone->batches;
    limit.how = memcpy_alone
                    ? "measured: memcpy gather alone, one thread"
                    : "measured: work alone in one thread, times min(workers, " + std::to_string(cores) + " cores)";
  }
  if (step > 0) {
    limit.how += workers == 0 ? "; then the step" : "; not below the step";
  }
  figures.us_per_batch_p50 = 1e6 * batch / figures.samples_per_second;
  return limit;
}

}  // namespace torchfeed::bench
