#include <torchfeed/plugin/loader/batch_pool.h>
#include <torchfeed/plugin/threading/malloc_learning.h>

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

namespace torchfeed::loader {
namespace {

/// New memory of a large batch costs a page fault, and its zeros, every 4 KiB: several times as long as writing it. The
/// kernel ignores this for memory that is there already, and where it has no huge pages.
void ask_for_huge_pages(void* data, std::uint64_t bytes) {
  constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
  if (bytes < 2 * kHugePage) {
    return;
  }
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uint64_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uint64_t>(data) + bytes) / page * page;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

/// What a tensor holds of the pool.
struct BatchPool::Loan {
  Loan(std::shared_ptr<BatchPool> from, at::Tensor lent) : pool(std::move(from)), block(std::move(lent)) {}
  ~Loan() { pool->put_back(std::move(block)); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  const std::shared_ptr<BatchPool> pool;
  at::Tensor block;
};

at::Tensor BatchPool::empty(at::IntArrayRef sizes, const at::TensorOptions& options, std::uint64_t bytes) {
  if (!is_owner()) {
    return empty_in_new_memory(sizes, options);
  }
  // Ended by the last copy of the deleter, whether there was a tensor or there could be none.
  auto loan = std::make_shared<Loan>(shared_from_this(), take(bytes));
  void* data = loan->block.data_ptr();
  return at::from_blob(
      data, sizes, [loan = std::move(loan)](void* /*data*/) {}, options);
}

at::Tensor BatchPool::take(std::uint64_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto block = std::find_if(free_.rbegin(), free_.rend(), [bytes](const at::Tensor& free) {
      return free.nbytes() >= bytes && free.nbytes() <= 2 * bytes;
    });
    if (block != free_.rend()) {
      at::Tensor taken = std::move(*block);
      free_.erase(std::prev(block.base()));
      return taken;
    }
  }
  threading::teach_malloc_to_keep();  // what the dataset uses in passing, as this block will not be freed with each
                                      // batch
  return empty_in_new_memory({static_cast<std::int64_t>(bytes)}, at::kByte);
}

void BatchPool::put_back(at::Tensor block) noexcept {
  if (!is_owner()) {
    return;
  }
  at::Tensor oldest;  // is freed when others may have the mutex
  const std::lock_guard<std::mutex> lock(mutex_);
  if (kept_ == 0) {
    return;
  }
  if (free_.size() == kept_) {
    oldest = std::move(free_.front());
    free_.erase(free_.begin());
  }
  free_.push_back(std::move(block));
}

void BatchPool::keep(std::size_t blocks) {
  if (!is_owner()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.reserve(blocks);
  kept_ = blocks;
  if (free_.size() > blocks) {
    free_.erase(free_.begin(), free_.end() - static_cast<std::ptrdiff_t>(blocks));
  }
}

at::Tensor empty_in_new_memory(at::IntArrayRef sizes, const at::TensorOptions& options) {
  if (!options.device().is_cpu() || options.layout() != at::kStrided) {
    return at::empty(sizes, options);
  }
  // What at::empty comes to after a dispatch that takes as long.
  at::Tensor tensor(at::detail::empty_cpu(sizes, options));
  ask_for_huge_pages(tensor.data_ptr(), tensor.nbytes());
  return tensor;
}

BatchPool*& current_pool() noexcept {
  thread_local BatchPool* pool = nullptr;
  return pool;
}

}  // namespace torchfeed::loader
