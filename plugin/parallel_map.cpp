#include <torchfeed/plugin/parallel_map.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <mutex>
#include <sstream>
#include <string>

namespace torchfeed::detail {
namespace {

constexpr std::int64_t kMostWorkers = 1024;

/// Workers of a call that does not say how many.
std::size_t planned_workers() {
  return static_cast<std::size_t>(std::max(1, ThreadingOptimizer().plan().physical_cores));
}

/// From the item's own generator if this is a call within a call, so that it does not matter where that item is done.
std::uint64_t draw_seed() {
  at::Generator source = generator();
  const std::lock_guard<std::mutex> lock(source.mutex());
  return static_cast<at::CPUGeneratorImpl*>(source.unsafeGetGeneratorImpl())->random64();
}

std::size_t resolve_workers(std::size_t items, const ParallelOptions& options, bool sendable) {
  TORCH_CHECK(options.max_workers >= -1 && options.max_workers <= kMostWorkers,
              "ParallelOptions: max_workers: expected -1 to ", kMostWorkers, ", got ", options.max_workers);
  TORCH_CHECK(options.chunk_size >= 0, "ParallelOptions: chunk_size: expected at least 0, got ", options.chunk_size);
  TORCH_CHECK(!options.use_processes || sendable,
              "parallel_map: use_processes: expected results that can be sent between processes, got a type without "
              "BatchCodec: specialise torchfeed::BatchCodec<T> for it, or use threads");
  const auto chunk_size = static_cast<std::size_t>(std::max<std::int64_t>(options.chunk_size, 1));
  const std::size_t chunks = items / chunk_size + (items % chunk_size == 0 ? 0 : 1);
  if (chunks <= 1 || worker_info()) {
    return 0;
  }
  const std::size_t wanted =
      options.max_workers < 0 ? planned_workers() : static_cast<std::size_t>(options.max_workers);
  const std::size_t workers = std::min(wanted, chunks);
  return workers > 1 ? workers : 0;
}

std::string range_text(const std::vector<std::size_t>& items) {
  const std::string first = std::to_string(items.front());
  return items.size() == 1 ? "item " + first : "items " + first + " to " + std::to_string(items.back());
}

}  // namespace

/// A BLAS with a pool of its own, which all threads of the process share, computes with one thread while there is one
/// of these: the first of several calls at once sets that, the last one puts it back. Worker processes have it so by
/// themselves, but OpenBLAS ends its pool at each fork, and the threads of a new one spin on a core for some 30 ms:
/// better when the work is done than beside it.
class ParallelRun::Compute {
 public:
  static std::shared_ptr<Compute> shared() {
    static std::mutex mutex;
    static std::weak_ptr<Compute> current;
    const std::lock_guard<std::mutex> lock(mutex);
    auto compute = current.lock();
    if (!compute) {
      compute = std::make_shared<Compute>();
      current = compute;
    }
    return compute;
  }

 private:
  threading::SingleThreadedBlasScope blas_;
};

ParallelRun::ParallelRun(std::size_t items, const ParallelOptions& options, bool sendable)
    : workers_(resolve_workers(items, options, sendable)),
      processes_(options.use_processes),
      seed_(draw_seed()),
      plan_(items, workers_, static_cast<std::size_t>(options.chunk_size)) {
  const auto worker = worker_info();
  if (workers_ == 0) {
    place_ =
        worker && worker->mode == WorkerMode::kThread ? loader::Workplace::kWorkerThread : loader::Workplace::kTrainer;
  } else {
    place_ = processes_ ? loader::Workplace::kWorkerProcess : loader::Workplace::kWorkerThread;
  }
  if (options.show_progress && items > 0) {
    progress_.emplace(items);
  }
}

ParallelRun::~ParallelRun() = default;

DataLoaderOptions ParallelRun::start() {
  board_ = std::make_unique<loader::ItemBoard>(workers_);
  compute_ = Compute::shared();
  // Out of order, so that a slow item keeps no finished results in shared memory, and an error is seen at once.
  return DataLoaderOptions()
      .num_workers(static_cast<std::int64_t>(workers_))
      .worker_mode(processes_ ? WorkerMode::kProcess : WorkerMode::kThread)
      .in_order(false)
      .seed(seed_);
}

loader::ItemJob ParallelRun::job() const noexcept { return {board_.get(), seed_, place_, plan_.patience()}; }

void ParallelRun::cancel() noexcept {
  if (board_) {
    board_->cancel();
  }
}

void ParallelRun::done(const loader::ItemRange& asked, std::size_t made, double seconds) {
  plan_.done(asked, made, seconds - std::exchange(seconds_, seconds));
  if (progress_ && made > 0) {
    progress_->add(made);
  }
}

void ParallelRun::done_one() {
  if (progress_) {
    progress_->add(1);
  }
}

void ParallelRun::throw_lost(const WorkerError& error) const {
  std::ostringstream out;
  out << "torchfeed: parallel_map: ";
  if (error.worker() < 0 || error.indices().empty()) {
    out << error.what();
    throw WorkerError(out.str(), error.worker(), error.batch(), error.indices(), error.signal());
  }
  const std::vector<std::size_t>& lost = error.indices();
  const std::size_t item = board_->item(error.worker());
  if (item >= lost.front() && item <= lost.back()) {
    out << "item " << item;  // else it died between items, or another worker has its place already
  } else {
    out << range_text(lost);
  }
  out << ": worker " << error.worker();
  if (error.signal() != 0) {
    out << " was killed by signal " << error.signal() << " (" << ::strsignal(error.signal()) << ")";
  } else {
    out << " exited";
  }
  out << "; no result of " << range_text(lost);
  throw WorkerError(out.str(), error.worker(), error.batch(), lost, error.signal());
}

}  // namespace torchfeed::detail
