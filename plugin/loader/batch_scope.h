#pragma once

#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/batch_pool.h>
#include <torchfeed/plugin/worker_info.h>

#include <ATen/record_function.h>

#include <cstdint>
#include <memory>

namespace torchfeed::loader {

/// Where a batch is made.
enum class Workplace {
  kWorkerProcess,
  kWorkerThread,  ///< shares torch's default generator with the trainer, so it is left alone
  kTrainer,       ///< in the training loop itself: the default generator is put back after the batch to where it was
};

/// What surrounds the making of one batch in this thread: `generator()` and, but for worker threads, torch's default
/// CPU generator are seeded from `id`, `empty_batch` takes its memory from `arena`, or large tensors' from `pool`
/// (none: at::empty), and PyTorch's profiler sees a span.
class BatchScope {
 public:
  BatchScope(const BatchId& id, BatchArena* arena, Workplace place, BatchPool* pool = nullptr);
  ~BatchScope();
  BatchScope(const BatchScope&) = delete;
  BatchScope& operator=(const BatchScope&) = delete;

 private:
  struct Outer;  // what was there before: a dataset may run a loader of its own inside get_batch
  std::unique_ptr<Outer> outer_;
  at::RecordFunction span_{at::RecordScope::USER_SCOPE};
};

/// In a BatchScope of this thread, at the same `place`: what follows is seeded from `id`, as a part of the batch that
/// is the same whatever batch it belongs to.
void reseed(const BatchId& id, Workplace place);

/// Makes this thread a worker in the eyes of worker_info(), and in a worker process those that it starts.
void set_worker_info(const WorkerInfo& info);

}  // namespace torchfeed::loader
