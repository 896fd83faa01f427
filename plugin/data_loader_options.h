#pragma once

#include <torchfeed/plugin/worker_info.h>

#include <torch/arg.h>
#include <torch/data/dataloader_options.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed {

/// For `num_workers`: the loader chooses.
inline constexpr std::int64_t kAuto = -1;

/// Options of `make_data_loader`, set in a chain. torch::data's options convert to them, and torch::data's
/// names work beside Python's: workers = num_workers, enforce_ordering = in_order.
/// Values are checked when the loader is made; a bad one raises c10::Error with what was expected and got.
struct DataLoaderOptions {
  DataLoaderOptions() = default;
  /* implicit */ DataLoaderOptions(std::size_t batch_size) : batch_size_(batch_size) {}
  /* implicit */ DataLoaderOptions(const torch::data::DataLoaderOptions& options);

  /// Samples a batch; at least 1.
  TORCH_ARG(std::size_t, batch_size) = 1;

  /// Workers: 0 makes batches in the trainer's thread. At most 1024. kAuto begins with none, and while training runs
  /// starts and ends workers as that makes it faster (streams and what worker processes cannot send stay without), so
  /// that the dataset has to work both here, where worker_init_fn is not called, and in workers. Those are forked from
  /// the trainer as it is then: pages that it writes to afterwards are copied once, at about a second a GB.
  TORCH_ARG(std::int64_t, num_workers) = 0;

  /// What a worker is: a process of its own, or a thread of the trainer's.
  TORCH_ARG(WorkerMode, worker_mode) = WorkerMode::kProcess;

  /// Batches asked for ahead, a worker; at least 1. Where they are so small that more are made in 0.4 ms, so many are
  /// (up to 8, and 32 in all), as waking who waits for one takes longer than making it.
  TORCH_ARG(std::size_t, prefetch_factor) = 2;

  /// Batches asked for ahead in all; replaces prefetch_factor * num_workers. At least 1. Never more, but in order those
  /// that are done and wait behind a slow one do not count.
  TORCH_ARG(std::optional<std::size_t>, max_jobs);

  /// Whether workers live on after an epoch.
  TORCH_ARG(bool, persistent_workers) = true;

  /// Whether batches come in the sampler's order; else as they are done.
  TORCH_ARG(bool, in_order) = true;

  /// Whether a last batch of fewer than batch_size samples is left out.
  TORCH_ARG(bool, drop_last) = false;

  /// How long the trainer waits for a batch before it gets a WorkerError; none: for ever.
  TORCH_ARG(std::optional<std::chrono::milliseconds>, timeout);

  /// Seed of `generator()` and of torch's generator in workers; drawn from torch's default generator if not given.
  TORCH_ARG(std::optional<std::uint64_t>, seed);

  /// Called with its number in each new worker, before its first batch.
  TORCH_ARG(std::function<void(int)>, worker_init_fn);

  /// How many dead workers are replaced in the loader's life.
  TORCH_ARG(std::size_t, max_worker_restarts) = 100;

  /// Most bytes of shared memory that all batches may take together, at least 1 MiB; default: half of the memory that
  /// machine and cgroup have available.
  TORCH_ARG(std::optional<std::size_t>, shared_memory_budget);

  /// Whether CUDA may copy batches asynchronously: worker processes' slots are registered with it once, and no batch is
  /// copied for it. When a batch is dropped, the loader waits until the GPU has done what it was asked for, as it may
  /// be copying still. Without a GPU, and without worker processes, it warns once and does nothing; batches that kAuto
  /// makes without workers are not pinned.
  TORCH_ARG(bool, pin_memory) = false;

  /// Whether the loader chooses num_workers where that is 0, as with kAuto, from the threading plan that is in force
  /// (optimize_system_for_training()), or else from one of its own.
  TORCH_ARG(bool, auto_threading) = false;

  /// A file for a timeline of the run, to be opened by ui.perfetto.dev or chrome://tracing; empty: none.
  TORCH_ARG(std::string, trace);

 public:
  /// torch::data's name of num_workers.
  DataLoaderOptions& workers(std::size_t value) { return num_workers(static_cast<std::int64_t>(value)); }
  std::size_t workers() const { return num_workers_ < 0 ? 0 : static_cast<std::size_t>(num_workers_); }
  /// torch::data's name of in_order.
  DataLoaderOptions& enforce_ordering(bool value) { return in_order(value); }
  bool enforce_ordering() const { return in_order_; }
};

/// The options as a loader uses them: every value set and checked.
struct FullDataLoaderOptions {
  /// resolve(), as torch::data's type does it.
  explicit FullDataLoaderOptions(const DataLoaderOptions& options) : FullDataLoaderOptions(resolve(options)) {}

  /// Throws c10::Error if a value is out of range.
  static FullDataLoaderOptions resolve(const DataLoaderOptions& options);

  /// With auto_workers: finds out how many there may be, and sets what depends on that. `computing`: share of a
  /// batch's time in which making it uses a core, 0 to 1; those who wait may be more than the cores.
  void plan_workers(double computing);

  /// Batches asked for ahead by so many workers, at least 1 if there are any.
  std::size_t jobs_for(std::size_t count) const noexcept {
    return prefetch_factor > 0 ? prefetch_factor * count : max_jobs;
  }

  std::size_t batch_size = 1;
  /// The workers; with auto_workers, the most that there will be: 0 until that has to be known.
  std::size_t workers = 0;
  bool auto_workers = false;
  WorkerMode worker_mode = WorkerMode::kProcess;
  std::size_t max_jobs = 0;         // by all workers
  std::size_t prefetch_factor = 0;  // 0: max_jobs whatever the number of workers
  bool persistent_workers = true;
  bool enforce_ordering = true;
  bool drop_last = false;
  std::optional<std::chrono::milliseconds> timeout;
  std::uint64_t seed = 0;
  std::function<void(int)> worker_init_fn;
  std::size_t max_worker_restarts = 0;
  std::size_t shared_memory_budget = 0;
  bool pin_memory = false;
  /// Where workers run: the CPUs that the threading plan in force has for them; empty: where the trainer may run.
  std::vector<int> worker_cpus;
  std::string trace;

 private:
  FullDataLoaderOptions() = default;
  void set_default_budget();
};

}  // namespace torchfeed
