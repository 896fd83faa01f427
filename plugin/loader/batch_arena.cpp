#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/batch_pool.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DefaultDtype.h>
#include <c10/util/accumulate.h>

namespace torchfeed {
namespace loader {
namespace {

constexpr std::uint64_t kAlignment = 64;  // a cache line, and the widest vector register

constexpr std::uint64_t align(std::uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

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

namespace {

/// What memory from elsewhere cannot be, or is not by from_blob.
bool is_plain(const at::TensorOptions& options) {
  return options.device().is_cpu() && options.layout() == at::kStrided && !options.has_memory_format() &&
         !options.pinned_memory() && !options.requires_grad();
}

}  // namespace

at::Tensor empty_batch(at::IntArrayRef sizes, at::TensorOptions options) {
  if (!is_plain(options)) {
    return at::empty(sizes, options.requires_grad(false)).set_requires_grad(options.requires_grad());
  }
  loader::BatchArena* arena = loader::current_arena();
  loader::BatchPool* pool = loader::current_pool();
  if (arena == nullptr && pool == nullptr) {
    return loader::empty_in_new_memory(sizes, options);
  }
  const auto bytes = static_cast<std::uint64_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (arena == nullptr) {
    return bytes >= loader::BatchPool::kLeastBytes ? pool->empty(sizes, options, bytes)
                                                   : loader::empty_in_new_memory(sizes, options);
  }
  return at::from_blob(arena->allocate(bytes), sizes, options);
}

}  // namespace torchfeed
