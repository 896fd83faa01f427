#pragma once

#include <torchfeed/datasets/csv/csv_block.h>
#include <torchfeed/datasets/csv/csv_plan.h>
#include <torchfeed/datasets/csv/text_source.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace torchfeed::datasets::csv {

/// Parses a text's blocks by several threads and gives them in order, and has done by the same threads what the caller
/// makes of them. `next`, `async` and `wait` are for one thread, which does its share of both while it would wait; the
/// others run from construction to destruction.
class BlockPipeline {
 public:
  /// `source` and `plan` must outlive this. No thread is made for `threads` = 1.
  BlockPipeline(TextSource& source, const CsvPlan& plan, std::size_t block_bytes, int threads);
  ~BlockPipeline();
  BlockPipeline(const BlockPipeline&) = delete;
  BlockPipeline& operator=(const BlockPipeline&) = delete;

  /// The next block; none at the end. Throws what the source has thrown in its place.
  std::optional<ParsedBlock> next();

  /// Has `work` done, before further blocks are parsed. Works begin in the order in which they come; those that have
  /// not begun at the end of this object are dropped.
  std::future<void> async(std::function<void()> work);
  /// Until the work is done, doing others meanwhile. Throws nothing of what the work throws.
  void wait(const std::future<void>& work);

 private:
  struct Task {
    std::uint64_t number = 0;
    TextBlock text;
  };
  /// What a thread uses for one block after the other.
  struct Worker {
    BlockParser parser;
    std::vector<char> room;  // for the text
  };
  struct Result {
    ParsedBlock block;
    std::exception_ptr error;
  };

  bool has_room() const { return claimed_ < given_ + window_; }
  bool can_claim() const { return !ended_ && !reading_ && has_room(); }
  std::optional<Task> claim(std::unique_lock<std::mutex>& lock);
  void parse(Task task, Worker& worker);
  void do_work(std::unique_lock<std::mutex>& lock);
  void run();

  TextSource& source_;
  const CsvPlan& plan_;
  std::size_t block_bytes_;
  std::uint64_t window_;  // blocks that may be begun and not yet given
  Worker own_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // All of these under mutex_.
  bool reading_ = false;  // somebody takes a block from the source, outside of the lock
  bool ended_ = false;    // nothing more is to be claimed
  bool stopped_ = false;  // nothing more is to be begun
  std::uint64_t claimed_ = 0;
  std::uint64_t given_ = 0;
  // Of the blocks from given_ on, at their numbers modulo window_: made at the start, so that no result lacks memory.
  std::vector<std::optional<Result>> results_;
  std::deque<std::packaged_task<void()>> works_;

  std::vector<std::thread> threads_;
};

}  // namespace torchfeed::datasets::csv
