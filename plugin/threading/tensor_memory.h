#pragma once

#include <chrono>
#include <cstdint>
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
/// at hand; large ones are shared. What nobody needed for `patience` is given back while tensors are freed, and all of
/// it before an allocation fails. Results do not change.
///
/// Any thread. Tensors outlive a change: each goes back where it came from. A forked child keeps nothing, as its memory
/// is a copy of each page that it writes to; it may call this anew. While PyTorch's profiler records memory, new
/// tensors go past it, so that all are seen. Not with an allocator of the program's own, nor where AddressSanitizer
/// watches memory.
std::string keep_tensor_memory(std::uint64_t limit, std::chrono::milliseconds patience = std::chrono::seconds(5));

}  // namespace torchfeed::threading
