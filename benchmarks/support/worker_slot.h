#pragma once

#include <torchfeed/plugin/loader/batch_arena.h>

#include <cstdint>

namespace torchfeed::benchmarks {

/// A slot in which this thread makes batches as a worker does: one after the other in the same memory.
class WorkerSlot {
 public:
  /// What `make` returns; `empty_batch` gives it the slot's memory. Valid until the next call.
  template <typename Make>
  auto run(const Make& make) {
    loader::BatchArena arena(memory_, 0);
    loader::current_arena() = &arena;
    auto result = make();
    loader::current_arena() = nullptr;
    return result;
  }

 private:
  loader::SlotRing ring_{1, std::uint64_t{1} << 30, 0};
  loader::SlotMemory memory_{ring_, 0};
};

}  // namespace torchfeed::benchmarks
