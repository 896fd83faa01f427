#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/loader/batch_arena.h>

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DefaultDtype.h>
#include <c10/util/accumulate.h>

#include <sys/mman.h>
#include <unistd.h>

namespace torchfeed {
namespace loader {
namespace {

constexpr std::uint64_t kAlignment = 64;  // a cache line, and the widest vector register

constexpr std::uint64_t align(std::uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

/// New memory of a large batch costs a page fault, and its zeros, every 4 KiB: several times as long as writing it. The
/// kernel ignores this for memory that is there already, and where it has no huge pages.
void ask_for_huge_pages(void* data, std::uint64_t bytes) {
  constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
  if (bytes < 2 * kHugePage) return;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uint64_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uint64_t>(data) + bytes) / page * page;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

BatchArena::BatchArena(GrowingMemory& memory, std::uint64_t begin)
    : memory_(memory), base_(memory.grow(begin)), begin_(align(begin)), used_(begin_) {}

std::byte* BatchArena::allocate(std::uint64_t bytes) {
  const std::uint64_t begin = align(used_);
  base_ = memory_.grow(begin + bytes);
  used_ = begin + bytes;
  return base_ + begin;
}

bool BatchArena::contains(const void* data, std::uint64_t bytes) const noexcept {
  const auto* first = static_cast<const std::byte*>(data);
  return first >= base_ + begin_ && first + bytes <= base_ + used_;
}

BatchArena*& current_arena() noexcept {
  thread_local BatchArena* arena = nullptr;
  return arena;
}

}  // namespace loader

at::Tensor empty_batch(at::IntArrayRef sizes, at::TensorOptions options) {
  loader::BatchArena* arena = loader::current_arena();
  if (!options.device().is_cpu() || options.layout() != at::kStrided) return at::empty(sizes, options);
  if (arena == nullptr) {
    // What at::empty comes to after a dispatch that takes as long.
    at::Tensor batch(at::detail::empty_cpu(sizes, options));
    loader::ask_for_huge_pages(batch.data_ptr(), batch.nbytes());
    return batch;
  }
  const auto bytes = static_cast<std::uint64_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  return at::from_blob(arena->allocate(bytes), sizes, options);
}

}  // namespace torchfeed
