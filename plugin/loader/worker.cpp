#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/worker.h>
#include <torchfeed/plugin/loader/worker_place.h>

#include <chrono>
#include <exception>

namespace torchfeed::loader {
namespace {

std::int64_t nanoseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

}  // namespace

void run_worker(const WorkerJob& job, int id) {
  SlotRing& ring = *job.ring;
  const WorkerInfo info{id, job.count, job.seed, job.mode};
  set_worker_info(info);
  // A worker that cannot start still answers: each batch that it takes fails with the reason.
  std::exception_ptr init_error;
  try {
    if (job.init) {
      job.init(id);
    }
  } catch (...) {
    init_error = std::current_exception();
  }
  WorkerPlace place(ring, id, std::chrono::steady_clock::now());
  while (const auto index = ring.wait_for_work(static_cast<std::uint32_t>(id))) {
    Slot& slot = ring.slot(*index);
    const auto begin = std::chrono::steady_clock::now();
    place.look(begin);
    slot.produce_begin = nanoseconds(begin.time_since_epoch());
    SlotState result = SlotState::kDone;
    try {
      if (init_error) {
        std::rethrow_exception(init_error);
      }
      set_worker_info({id, job.count, slot.id.seed, job.mode});  // load_state() may have brought another seed
      job.maker->make(id, *index);
    } catch (...) {
      job.maker->fail(id, *index);
      result = SlotState::kFailed;
    }
    slot.produce_nanoseconds = nanoseconds(std::chrono::steady_clock::now() - begin);
    ring.finish(*index, result);
  }
}

}  // namespace torchfeed::loader
