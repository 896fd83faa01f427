#pragma once

#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/chunk_plan.h>
#include <torchfeed/plugin/loader/item_chunk.h>
#include <torchfeed/plugin/loader/item_error.h>
#include <torchfeed/plugin/progress_bar.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed {

/// Options of `parallel_map`. Values out of range raise c10::Error with what was expected and got.
struct ParallelOptions {
  /// Workers at most: -1 to 1024. -1: as many as the threading plan has for preprocessing, the one that is in force
  /// (optimize_system_for_training()) or else the process's first for its CPUs. 0: the calling thread does it all.
  /// Never more than there are chunks to do; instead of one worker thread the calling thread does it. Default: -1.
  std::int64_t max_workers = -1;
  /// Whether workers are processes, forked for this call (for functions that compute, or crash), or threads (for
  /// functions that wait, or share memory). With true and max_workers other than 0 the calling process does not even a
  /// single item itself, unless it is a worker. Default: threads.
  bool use_processes = false;
  /// Whether to tell on stderr how far it is: a bar on a terminal, a line now and then elsewhere. Default: false.
  bool show_progress = false;
  /// Items that a worker is asked for at once; 0 and above. 0: as many as take some milliseconds, as measured; fewer
  /// towards the end. Default: 0.
  std::int64_t chunk_size = 0;
  /// Most bytes of shared memory that results on their way from worker processes may take together, at least 1 MiB.
  /// Workers wait where others' results have it; a chunk whose results alone are larger is an error. 0: half of the
  /// memory that machine and cgroup have available. Default: 0.
  std::size_t shared_memory_budget = 0;
};

namespace detail {

/// One call of parallel_map, without its types. The calling thread.
class ParallelRun {
 public:
  /// `sendable`: whether results have a BatchCodec. Throws c10::Error for options out of range and for processes that
  /// could not send the results.
  ParallelRun(std::size_t items, const ParallelOptions& options, bool sendable);
  ~ParallelRun();
  ParallelRun(const ParallelRun&) = delete;
  ParallelRun& operator=(const ParallelRun&) = delete;

  /// 0: the calling thread itself.
  std::size_t workers() const noexcept { return workers_; }
  loader::ChunkPlan& plan() noexcept { return plan_; }
  /// For the workers' loader. Makes what workers share, so call it before that loader is made.
  DataLoaderOptions start();
  /// What workers need to know. After start().
  loader::ItemJob job() const noexcept;
  /// Workers need not begin anything more. No-op before start().
  void cancel() noexcept;
  /// For the calling thread: the same numbers for an item as a worker would have.
  loader::BatchId id(std::size_t item) const noexcept { return {seed_, 0, item}; }
  loader::Workplace place() const noexcept { return place_; }

  /// The loader has been made, and has so much shared memory for worker processes.
  void started(std::uint64_t budget_bytes) noexcept;

  /// A chunk's first `made` items are done. `stats`: the loader's.
  void done(const loader::ItemRange& asked, std::size_t made, const LoaderStats& stats);
  /// An item is done by the calling thread.
  void done_one();
  /// Throws what the loader has said of its workers, and which items are lost.
  [[noreturn]] void throw_lost(const WorkerError& error) const;

 private:
  class Compute;  // how workers compute
  std::size_t workers_;
  bool processes_;
  std::uint64_t seed_;
  loader::Workplace place_;
  std::size_t budget_;
  loader::ChunkPlan plan_;
  double seconds_ = 0;       // of the stats that came last
  std::uint64_t bytes_ = 0;  // of the same
  std::optional<ProgressBar> progress_;
  std::unique_ptr<loader::ItemBoard> board_;
  std::unique_ptr<Compute> compute_;
};

/// Any range's items by number, to be read by any thread, each at most once: in place if the range lets go back to
/// them, else kept here.
template <std::ranges::input_range Items>
class ItemsByNumber {
  using Iterator = std::ranges::iterator_t<Items>;
  using Reference = std::ranges::range_reference_t<Items>;
  static_assert(!std::same_as<std::ranges::sentinel_t<Items>, std::unreachable_sentinel_t>,
                "torchfeed::parallel_map: expected a range that ends");
  static constexpr bool kInPlace = std::ranges::random_access_range<Items> && std::ranges::sized_range<Items>;
  static constexpr bool kByIterator = !kInPlace && std::ranges::forward_range<Items>;

 public:
  explicit ItemsByNumber(Items& items) {
    if constexpr (kInPlace) {
      places_ = std::ranges::begin(items);
      size_ = static_cast<std::size_t>(std::ranges::size(items));
    } else {
      const auto end = std::ranges::end(items);
      for (auto place = std::ranges::begin(items); place != end; ++place) {
        if constexpr (kByIterator) {
          places_.push_back(place);
        } else {
          places_.emplace_back(*place);
        }
      }
      size_ = places_.size();
    }
  }

  std::size_t size() const noexcept { return size_; }

  Reference operator[](std::size_t item) {
    if constexpr (kInPlace) {
      return places_[static_cast<std::ranges::range_difference_t<Items>>(item)];
    } else if constexpr (kByIterator) {
      return *places_[item];
    } else {
      if constexpr (std::is_reference_v<Reference>) {
        return static_cast<Reference>(places_[item]);
      } else {
        return Reference(std::move(places_[item]));
      }
    }
  }

 private:
  std::conditional_t<
      kInPlace, Iterator,
      // A deque, as a vector of bool has no values of its own to give.
      std::conditional_t<kByIterator, std::vector<Iterator>, std::deque<std::ranges::range_value_t<Items>>>>
      places_{};
  std::size_t size_ = 0;
};

template <typename Result>
std::vector<Result> map_here(const loader::ItemFunction<Result>& function, std::size_t items, ParallelRun& run) {
  std::vector<Result> results;
  results.reserve(items);
  const loader::BatchScope scope(run.id(0), nullptr, run.place());
  for (std::size_t item = 0; item < items; ++item) {
    loader::reseed(run.id(item), run.place());
    std::unique_ptr<loader::ItemError> error;
    try {
      results.push_back(function(item));
    } catch (...) {
      error = loader::current_item_error(item, -1);
    }
    if (error) {
      loader::throw_item_error(*error);
    }
    run.done_one();
  }
  return results;
}

/// Chunks that came as they were done, as one vector.
template <typename Result>
std::vector<Result> in_order(std::vector<loader::ItemChunk<Result>> chunks, std::size_t items) {
  std::sort(chunks.begin(), chunks.end(), [](const auto& a, const auto& b) { return a.asked.begin < b.asked.begin; });
  std::vector<Result> results;
  results.reserve(items);
  for (auto& chunk : chunks) {
    for (auto&& result : chunk.results) {
      results.push_back(std::move(result));
    }
    chunk = {};
  }
  return results;
}

template <typename Result>
std::vector<Result> map_by_workers(const loader::ItemFunction<Result>& function, std::size_t items, ParallelRun& run) {
  std::vector<loader::ItemChunk<Result>> chunks;
  std::unique_ptr<loader::ItemError> error;
  try {
    const DataLoaderOptions options = run.start();
    auto loader =
        make_data_loader(loader::ItemDataset<Result>(function, run.job()), loader::ChunkSampler(run.plan()), options);
    // Goes before the loader does, which waits for workers.
    const auto cancel = [](ParallelRun* all) { all->cancel(); };
    const std::unique_ptr<ParallelRun, decltype(cancel)> canceller(&run, cancel);
    run.started(loader->options().shared_memory_budget);
    for (auto& chunk : *loader) {
      if ((error = std::move(chunk.error))) {
        break;
      }
      run.done(chunk.asked, chunk.results.size(), loader->stats());
      chunks.push_back(std::move(chunk));
    }
  } catch (const WorkerError& lost) {
    run.throw_lost(lost);
  }
  if (error) {
    loader::throw_item_error(*error);
  }
  return in_order(std::move(chunks), items);
}

}  // namespace detail

/// Calls `fn` with each item and gives the results in the items' order; nothing if `fn` returns nothing.
///
///     auto prices = feed::parallel_map(download, tickers, {.max_workers = 16});
///     auto models = feed::parallel_map(fit, folds, {.use_processes = true, .show_progress = true});
///
/// `items` is any range that ends: containers, arrays, views, a list in braces, input that can be read once (which is
/// read to its end first). `fn` takes what the range's iterator gives, in place: threads share the items and `fn`,
/// which have to bear that; worker processes have them as they were at the call, so that only what `fn` returns comes
/// back. Results travel between processes as a DataLoader's batches do, by BatchCodec; between threads they are moved.
///
/// Results from processes are the caller's own memory: nothing of the call is left when it returns.
///
/// Workers compute with one thread each (ATen, OpenMP, BLAS); where BLAS has a pool for the whole process, other
/// threads' products run on one thread too until the call ends. Workers may run on all CPUs that the process was given:
/// under a plan that binds threads, on the trainer's and the loader's. In `fn`, `generator()` gives the same numbers
/// for an item whatever the options; torch's default generator does so in processes and in the calling thread. A
/// parallel_map within a worker's `fn`, or in a DataLoader's worker, runs in that worker alone.
///
/// The first error ends it: what others have begun is done, nothing more is begun (a worker process that takes longer
/// than 0.2 s for it is killed).
/// - What `fn` throws comes back with its type as from a DataLoader's worker process (std's and c10's; a type of the
///   user's own as its nearest such base, all else as WorkerError) and the item's number in its text: "torchfeed:
///   parallel_map: item 7: ...". Unless it is from another process, the original is nested in it:
///   std::rethrow_if_nested.
/// - A worker process that dies is a WorkerError: it tells the item, signal() and, as indices(), the items that have no
///   result. No item is begun twice.
/// - WorkerError, too, where no worker process is left, as the system refused to fork any, or all were killed between
///   items, or their fork server was: "torchfeed: parallel_map: no worker is left ...".
/// - c10::Error: options out of range; results without a BatchCodec and use_processes; results that cannot be sent, or
///   are larger than shared_memory_budget. std::system_error: no threads, no shared memory, no fork server to be had.
/// - An item that does not come back is waited for, and so is a worker process that somebody has stopped (SIGSTOP):
///   there is no time-out.
///
/// May be called by several threads at once, and if use_processes while no other thread holds a lock that `fn` needs: a
/// worker would wait for it for ever. LibTorch has one for each operator's first call in a process: where other threads
/// compute meanwhile, call what `fn` calls once before.
/// Torch's default generator is one for all of them: the state that it had is put back when the last call that runs in
/// its calling thread ends, but what `fn` draws from it meanwhile is not the same each time. generator() is.
template <typename Fn, std::ranges::input_range Items>
requires std::invocable<Fn&, std::ranges::range_reference_t<Items>>
auto parallel_map(Fn&& fn, Items&& items, const ParallelOptions& options = {}) {
  using Range = std::remove_reference_t<Items>;
  using Returned = std::invoke_result_t<Fn&, std::ranges::range_reference_t<Items>>;
  // Something has to tell that an item is done.
  using Result = std::conditional_t<std::is_void_v<Returned>, char, std::remove_cvref_t<Returned>>;
  static_assert(std::move_constructible<Result>, "torchfeed::parallel_map: expected results that can be moved");

  struct Call {
    std::remove_reference_t<Fn>& fn;
    detail::ItemsByNumber<Range> items;
  };
  Call call{fn, detail::ItemsByNumber<Range>(items)};
  const loader::ItemFunction<Result> function{&call, [](void* context, std::size_t item) -> Result {
                                                auto& self = *static_cast<Call*>(context);
                                                if constexpr (std::is_void_v<Returned>) {
                                                  std::invoke(self.fn, self.items[item]);
                                                  return {};
                                                } else {
                                                  return std::invoke(self.fn, self.items[item]);
                                                }
                                              }};
  detail::ParallelRun run(call.items.size(), options, Sendable<Result>);
  auto results = run.workers() == 0 ? detail::map_here(function, call.items.size(), run)
                                    : detail::map_by_workers(function, call.items.size(), run);
  if constexpr (!std::is_void_v<Returned>) {
    return results;
  }
}

/// The same for a list in braces.
template <typename Fn, typename Item>
requires std::invocable<Fn&, const Item&>
auto parallel_map(Fn&& fn, std::initializer_list<Item> items, const ParallelOptions& options = {}) {
  return parallel_map(fn, std::ranges::subrange(items.begin(), items.end()), options);
}

}  // namespace torchfeed
