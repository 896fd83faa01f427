#include <torchfeed/datasets/csv/block_pipeline.h>

#include <chrono>
#include <new>
#include <system_error>
#include <utility>

namespace torchfeed::datasets::csv {

BlockPipeline::BlockPipeline(TextSource& source, const CsvPlan& plan, std::size_t block_bytes, int threads)
    : source_(source),
      plan_(plan),
      block_bytes_(block_bytes),
      // Two for each thread, so that nobody waits for a block that takes long, and one that the caller works on.
      window_(static_cast<std::uint64_t>(threads) * 2 + 1),
      own_{BlockParser(plan), {}},
      results_(window_) {
  threads_.reserve(static_cast<std::size_t>(threads));
  try {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { run(); });
  } catch (const std::system_error&) {
    // As many as the system grants; the caller parses anyway.
  } catch (const std::bad_alloc&) {
  }
}

BlockPipeline::~BlockPipeline() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
}

std::optional<ParsedBlock> BlockPipeline::next() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (auto& place = results_[given_ % window_]) {
      Result result = std::move(*place);
      place.reset();
      ++given_;
      lock.unlock();
      changed_.notify_all();
      if (result.error) std::rethrow_exception(result.error);
      return std::move(result.block);
    }
    if (ended_ && given_ == claimed_) return std::nullopt;
    if (!works_.empty()) {
      do_work(lock);
    } else if (can_claim()) {
      auto task = claim(lock);
      lock.unlock();
      if (task) parse(std::move(*task), own_);
      lock.lock();
    } else {
      changed_.wait(lock);
    }
  }
}

std::future<void> BlockPipeline::async(std::function<void()> work) {
  std::packaged_task<void()> task(std::move(work));
  auto done = task.get_future();
  if (threads_.empty()) {
    task();
    return done;
  }
  {
    const std::lock_guard lock(mutex_);
    works_.push_back(std::move(task));
  }
  changed_.notify_all();
  return done;
}

void BlockPipeline::wait(const std::future<void>& work) {
  std::unique_lock lock(mutex_);
  while (work.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    if (works_.empty()) {
      changed_.wait(lock);
    } else {
      do_work(lock);
    }
  }
}

void BlockPipeline::do_work(std::unique_lock<std::mutex>& lock) {
  {
    auto work = std::move(works_.front());
    works_.pop_front();
    lock.unlock();
    work();
  }  // What it holds goes outside of the lock.
  lock.lock();
  changed_.notify_all();
}

// One at a time takes from the source, without the lock, as that may take long. None at the end of the text.
std::optional<BlockPipeline::Task> BlockPipeline::claim(std::unique_lock<std::mutex>& lock) {
  reading_ = true;
  lock.unlock();
  std::optional<TextBlock> text;
  std::exception_ptr error;
  try {
    text = source_.next(block_bytes_);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  reading_ = false;
  std::optional<Task> task;
  if (text) {
    task = Task{claimed_++, std::move(*text)};
  } else {
    ended_ = true;
    if (error) results_[claimed_++ % window_] = Result{{}, error};
  }
  changed_.notify_all();
  return task;
}

void BlockPipeline::parse(Task task, Worker& worker) {
  Result result;
  try {
    source_.load(task.text, worker.room);
    result.block = worker.parser.parse(task.text.text, task.text.cut);
  } catch (...) {
    result.error = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    // What comes behind a fault is not looked at.
    if (result.error || result.block.fault) ended_ = true;
    results_[task.number % window_] = std::move(result);
  }
  changed_.notify_all();
}

void BlockPipeline::run() {
  std::optional<Worker> worker;
  try {
    worker.emplace(Worker{BlockParser(plan_), {}});
  } catch (const std::bad_alloc&) {
    return;  // The others do it, the caller at least.
  }
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopped_ || !works_.empty() || can_claim(); });
    if (stopped_) return;
    if (!works_.empty()) {
      do_work(lock);
    } else if (auto task = claim(lock)) {
      lock.unlock();
      parse(std::move(*task), *worker);
      lock.lock();
    }
  }
}

}  // namespace torchfeed::datasets::csv
