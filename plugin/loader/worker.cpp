#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/error_codec.h>
#include <torchfeed/plugin/loader/worker.h>

#include <chrono>
#include <exception>

namespace torchfeed::loader {
namespace {

void make_batch(const WorkerJob& job, int id, std::uint32_t index) {
  SlotRing& ring = *job.ring;
  Slot& slot = ring.slot(index);
  set_worker_info({id, job.count, slot.id.seed, WorkerMode::kProcess});
  BatchArena arena(ring, index, slot.request.end);
  const BatchScope scope(slot.id, &arena, /*restore=*/false);
  BatchReader request(ring.payload(index), slot.request, nullptr);
  BatchWriter batch(arena);
  job.maker->make(request, batch);
  slot.result = batch.finish();
}

}  // namespace

void run_worker(const WorkerJob& job, int id) {
  SlotRing& ring = *job.ring;
  set_worker_info({id, job.count, job.seed, WorkerMode::kProcess});
  // A worker that cannot start still answers: each batch that it takes fails with the reason.
  std::exception_ptr init_error;
  try {
    if (job.init) {
      job.init(id);
    }
  } catch (...) {
    init_error = std::current_exception();
  }
  while (const auto index = ring.wait_for_work(static_cast<std::uint32_t>(id))) {
    Slot& slot = ring.slot(*index);
    const auto begin = std::chrono::steady_clock::now();
    SlotState result = SlotState::kDone;
    try {
      if (init_error) {
        std::rethrow_exception(init_error);
      }
      make_batch(job, id, *index);
    } catch (...) {
      encode_current_exception(slot.error, id);
      result = SlotState::kFailed;
    }
    slot.produce_nanoseconds =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin).count();
    ring.finish(*index, result);
  }
}

}  // namespace torchfeed::loader
