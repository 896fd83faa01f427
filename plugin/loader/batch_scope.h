#pragma once

#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/worker_info.h>

#include <cstdint>
#include <memory>

namespace torchfeed::loader {

/// What surrounds the making of one batch in this thread: `generator()` and torch's default CPU generator are seeded
/// from `id`, `empty_batch` takes its memory from `arena` (none: at::empty). With `restore`, the default generator is
/// put back at the end to where it was, as befits the trainer's own thread.
class BatchScope {
 public:
  BatchScope(const BatchId& id, BatchArena* arena, bool restore);
  ~BatchScope();
  BatchScope(const BatchScope&) = delete;
  BatchScope& operator=(const BatchScope&) = delete;

 private:
  struct Outer;  // what was there before: a dataset may run a loader of its own inside get_batch
  std::unique_ptr<Outer> outer_;
};

/// Makes this process a worker in the eyes of worker_info().
void set_worker_info(const WorkerInfo& info);

}  // namespace torchfeed::loader
