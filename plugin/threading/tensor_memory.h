#pragma once

#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/free_memory.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace torchfeed::threading {

/// Memory of freed CPU tensors that is kept for the next ones, in bytes.
struct TensorMemory {
  /// The most that may lie idle; 0: none is kept, LibTorch's own allocator works alone.
  std::uint64_t limit = 0;
  /// What lies idle now, but for what threads keep at hand, 4 MiB each at most.
  std::uint64_t idle = 0;
};
TensorMemory tensor_memory();

/// Tells how much memory there is; empty: unknown.
using FreeMemory = std::optional<MemoryRoom> (*)();

/// Lets LibTorch keep the memory of freed CPU tensors, up to `limit` bytes of it; 0: gives it back and ends that.
/// Returns why not, as a phrase; empty: it holds.
///
/// LibTorch asks malloc for each tensor. glibc gives the memory of large ones back to the kernel when they are freed,
/// at the latest at the end of a step: the next one gets it page by page again, each cleared by the kernel. Two
/// convolutions over 32 images of 64 x 64 pixels spend a third of their step on that; small tensors gain as well, as
/// glibc has no quick way for aligned memory. Python users preload jemalloc or tcmalloc against it.
///
/// This stands in front of LibTorch's default allocator (c10::SetCPUAllocator): a freed block goes to a list of blocks
/// of its size, four sizes to each power of two, and the next tensor of that size takes it. A thread keeps small blocks
/// at hand; large ones are shared. Tensors that are larger than `limit` are LibTorch's own. Results do not change.
///
/// Sizes are not made of one another: a program whose tensors come in ever other sizes has up to `limit` idle beside
/// what it uses. What nobody needed for `patience` goes back to malloc, as long as tensors are freed (a look at every
/// large one, and at every 1024th small one of a thread); a program that frees none any more has it until it calls this
/// with 0. All goes back to the system before an allocation fails, and where `free_memory`, asked for every 256 MiB of
/// new memory, leaves less than 512 MiB: new tensors of this process alone, others' needs are not seen.
///
/// Before other threads make tensors, as LibTorch sets its allocator without a lock; later calls by any thread. The
/// allocator stays set for the life of the process: with 0 it hands all on to LibTorch's own. Memory of either may be
/// freed through the other (to_mkldnn() does), so tensors outlive each change; it all is malloc's. Small blocks that
/// other threads have at hand go back when those end. A forked child keeps nothing; it may call this anew, and what
/// lay idle in large blocks takes no memory of its own in it, unless another thread of the parent's used the shelves
/// in that moment. While PyTorch's profiler records memory in a thread, that thread goes past this, so that all is
/// seen. malloc itself keeps freed blocks up to 32 MiB from the first call on, as it would have learned from tensors.
/// Not with an allocator of the program's own, nor where AddressSanitizer watches memory.
std::string keep_tensor_memory(
    std::uint64_t limit, std::chrono::milliseconds patience = std::chrono::seconds(5),
    FreeMemory free_memory = [] { return read_free_memory(); });

}  // namespace torchfeed::threading
