#include <torchfeed/plugin/parallel_map.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace torchfeed::detail {
namespace {

constexpr std::int64_t kMostWorkers = 1024;
constexpr std::size_t kSmallestBudget = std::size_t{1} << 20;  // as a loader has it

/// Workers of a call that does not say how many.
std::size_t planned_workers() {
  if (const auto plan = thread_plan_in_force()) {
    return static_cast<std::size_t>(std::max(1, plan->preprocessing));
  }
  // A plan takes some milliseconds, and depends on little else than the mask.
  static std::mutex mutex;
  static std::map<std::vector<int>, int> planned;
  const auto cpus = threading::available_cpus();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, is_new] = planned.try_emplace(cpus, 1);
  if (is_new) {
    place->second = ThreadingOptimizer().plan().preprocessing;
  }
  return static_cast<std::size_t>(std::max(1, place->second));
}

/// Where workers belong: a plan that has bound the calling thread to the trainer's CPUs, and keeps others for a
/// loader's workers, knows of no others that compute while the trainer waits for this call, so both parts. A thread
/// that was bound elsewhere on purpose keeps to that. Empty: where workers go by themselves.
std::vector<int> cpus_of_workers() {
  const auto plan = thread_plan_in_force();
  if (!plan || plan->dataloader_cpus.empty()) {
    return {};
  }
  std::vector<int> cpus = threading::thread_cpus();
  std::vector<int> trainer = plan->trainer_cpus;
  std::sort(trainer.begin(), trainer.end());
  if (cpus != trainer) {
    return threading::available_cpus();
  }
  cpus.insert(cpus.end(), plan->dataloader_cpus.begin(), plan->dataloader_cpus.end());
  return cpus;
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
  TORCH_CHECK(options.shared_memory_budget == 0 || options.shared_memory_budget >= kSmallestBudget,
              "ParallelOptions: shared_memory_budget: expected 0 or at least ", kSmallestBudget, " bytes, got ",
              options.shared_memory_budget);
  TORCH_CHECK(!options.use_processes || sendable,
              "parallel_map: use_processes: expected results that can be sent between processes, got a type without "
              "BatchCodec: specialise torchfeed::BatchCodec<T> for it, or use threads");
  const auto chunk_size = static_cast<std::size_t>(std::max<std::int64_t>(options.chunk_size, 1));
  const std::size_t chunks = items / chunk_size + (items % chunk_size == 0 ? 0 : 1);
  if (chunks == 0 || worker_info() || (chunks == 1 && !options.use_processes)) {
    return 0;
  }
  const std::size_t wanted =
      options.max_workers < 0 ? planned_workers() : static_cast<std::size_t>(options.max_workers);
  const std::size_t workers = std::min(wanted, chunks);
  // What a function does to its process, and what may become of that, must not depend on the number of cores or items.
  return workers > 1 || options.use_processes ? workers : 0;
}

}  // namespace

/// Worker processes have it so by themselves, but OpenBLAS ends its pool at each fork, and the threads of a new one
/// spin on a core for some 30 ms: better when the work is done than beside it.
class ParallelRun::Compute {
  threading::SingleThreadedBlasScope blas_;
};

ParallelRun::ParallelRun(std::size_t items, const ParallelOptions& options, bool sendable)
    : workers_(resolve_workers(items, options, sendable)),
      processes_(options.use_processes),
      seed_(draw_seed()),
      budget_(options.shared_memory_budget),
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
  compute_ = std::make_unique<Compute>();
  // Out of order, so that a slow item keeps no finished results in shared memory, and an error is seen at once. Nobody
  // is replaced: the first death is the end, and the place on the board is the dead worker's until it has been told.
  DataLoaderOptions options;
  options.num_workers(static_cast<std::int64_t>(workers_))
      .worker_mode(processes_ ? WorkerMode::kProcess : WorkerMode::kThread)
      .in_order(false)
      .seed(seed_)
      .max_worker_restarts(0);
  if (budget_ > 0) {
    options.shared_memory_budget(budget_);
  }
  // A loader would keep its workers to the part that the plan has for them.
  if (auto cpus = cpus_of_workers(); !cpus.empty()) {
    options.worker_init_fn([cpus = std::move(cpus)](int /*worker*/) { threading::bind_current_thread(cpus); });
  }
  return options;
}

void ParallelRun::started(std::uint64_t budget_bytes) noexcept {
  if (processes_) {  // threads hand their results over where they are
    // Each worker's chunk under way, and another that is written already.
    plan_.set_most_bytes(budget_bytes / (2 * std::max<std::size_t>(workers_, 1)));
  }
}

loader::ItemJob ParallelRun::job() const noexcept { return {board_.get(), seed_, place_, plan_.patience()}; }

void ParallelRun::cancel() noexcept {
  if (board_) {
    board_->cancel();
  }
}

void ParallelRun::done(const loader::ItemRange& asked, std::size_t made, const LoaderStats& stats) {
  plan_.done(asked, made, stats.produce_seconds - std::exchange(seconds_, stats.produce_seconds),
             stats.bytes - std::exchange(bytes_, stats.bytes));
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
    constexpr std::string_view kSpeaker = "torchfeed: ";
    const std::string_view text = error.what();
    out << (text.starts_with(kSpeaker) ? text.substr(kSpeaker.size()) : text);
    throw WorkerError(out.str(), error.worker(), error.batch(), error.indices(), error.signal());
  }
  const loader::ItemRange lost{error.indices().front(), error.indices().back() + 1};
  const std::size_t item = board_->item(error.worker());
  const bool at_item = item >= lost.begin && item < lost.end;  // else it died before its first, or behind its last
  out << (at_item ? loader::ItemRange{item, item + 1} : lost).text() << ": worker " << error.worker();
  if (error.signal() != 0) {
    out << " was killed by signal " << error.signal() << " (" << ::strsignal(error.signal()) << ")";
  } else {
    out << " exited";
  }
  out << "; no result of " << lost.text();
  throw WorkerError(out.str(), error.worker(), error.batch(), error.indices(), error.signal());
}

}  // namespace torchfeed::detail
