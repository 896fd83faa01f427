#include "limits.h"

#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/stack.h>

#include <ATen/Parallel.h>
#include <torch/data.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::bench {
namespace {

/// The memory of the batch before, as workers' slots are; in huge pages, as that of a large batch in ordinary memory.
class KeptMemory final : public loader::GrowingMemory {
 public:
  std::byte* grow(std::uint64_t bytes) override {
    TORCH_CHECK(bytes <= kMostBytes, "limit: expected batches of at most ", kMostBytes, " bytes, got ", bytes);
    return static_cast<std::byte*>(memory_.data_ptr());
  }

 private:
  static constexpr std::int64_t kMostBytes = std::int64_t{4} << 30;  // of addresses
  const at::Tensor memory_ = empty_batch({kMostBytes}, at::kByte);
};

/// `empty_batch` takes this memory, until the end of the scope.
class ArenaScope {
 public:
  explicit ArenaScope(loader::GrowingMemory& memory) : arena_(memory, 0) { loader::current_arena() = &arena_; }
  ~ArenaScope() { loader::current_arena() = nullptr; }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  loader::BatchArena arena_;
};

/// No loader: batches are made in one place, when they are asked for, by `make(indices)`, and dropped.
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
    // As workers' slots are, the memory is that of the batch before.
    const ArenaScope scope(memory_);
    make_(indices_);
    return true;
  }
  void finish() override { left_ = 0; }
  LoaderStats stats() const override { return {}; }

 private:
  Make make_;
  KeptMemory memory_;
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

}  // namespace

std::optional<compare::Candidate> work_alone(const Task& task, double seconds) {
  if (task.workload == Workload::kNoop) {
    return std::nullopt;
  }
  compare::RunPlan plan;
  plan.seconds = seconds;
  plan.period = period_of(task.workload, task.batch_size);
  const char* name = is_memcpy(task.workload) ? "limit: memcpy alone" : "limit: work alone";
  return compare::Candidate{.name = name, .make = [task] { return make_work(task); }, .plan = plan, .competes = false};
}

std::optional<Limit> limit_of(const Task& task, std::int64_t workers, int cores, const LoaderFigures* alone) {
  if (alone == nullptr || alone->samples_per_second == 0) {
    return std::nullopt;
  }
  // How many can work at once. Inline it is ATen's threads, at best.
  const bool memcpy_alone = is_memcpy(task.workload);
  const bool waiting = is_waiting(task.workload);
  const auto wanted = static_cast<int>(workers == 0 ? (waiting ? 1 : at::get_num_threads()) : workers);
  const int hands = memcpy_alone ? 1 : waiting ? wanted : std::min(wanted, cores);
  const auto batch = static_cast<double>(task.batch_size);
  const double step = 1e-3 * task.step_ms;
  const auto pace = [&](double alone_pace) {
    const double work = batch / alone_pace;
    if (workers == 0) {
      return batch / (work / hands + step);
    }
    const double computing = memcpy_alone || waiting ? 0 : (work + step) / cores;
    return batch / std::max({work / hands, step, computing});
  };
  Limit limit;
  LoaderFigures& figures = limit.figures;
  figures.samples_per_second = pace(alone->samples_per_second);
  figures.samples_per_second_low = pace(alone->samples_per_second_low);
  figures.samples_per_second_high = pace(alone->samples_per_second_high);
  figures.us_per_batch_p50 = 1e6 * batch / figures.samples_per_second;
  figures.repeats = alone->repeats;
  figures.batches = alone->batches;
  limit.how = std::string("measured: ") +
              (memcpy_alone ? "memcpy gather"
               : waiting    ? "the same waiting"
                            : "work") +
              " alone in one thread" + (hands > 1 ? ", times " + std::to_string(hands) : "");
  if (step > 0) {
    limit.how += workers == 0 ? "; then the step" : "; not below the step";
  }
  return limit;
}

}  // namespace torchfeed::bench
