#include <torchfeed/plugin/loader/batch_pool.h>

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <sys/mman.h>
#include <unistd.h>

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
  std::shared_ptr<BatchPool> pool;
  at::Tensor block;
};

at::Tensor BatchPool::empty(at::IntArrayRef sizes, const at::TensorOptions& options, std::uint64_t bytes) {
  auto loan = std::make_unique<Loan>(Loan{shared_from_this(), take(bytes)});
  void* data = loan->block.data_ptr();
  // The tensor has the loan, without which it could not be made, or nobody has.
  at::Tensor tensor = at::from_blob(
      data, sizes,
      [loan = loan.get()](void* /*data*/) {
        const std::unique_ptr<Loan> ended(loan);
        ended->pool->put_back(std::move(ended->block));
      },
      options);
  static_cast<void>(loan.release());
  return tensor;
}

at::Tensor BatchPool::take(std::uint64_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!free_.empty()) {
      at::Tensor block = std::move(free_.back());
      free_.pop_back();
      if (block.nbytes() >= bytes && block.nbytes() <= 2 * bytes) {
        return block;
      }  // else batches have another size now
    }
  }
  // The block will not be freed with each batch. malloc learns from what is how much to keep (mallopt(3):
  // M_MMAP_THRESHOLD), and would give back and ask again for all that the dataset uses in passing.
  static_cast<void>(at::empty({static_cast<std::int64_t>(bytes)}, at::kByte));
  return empty_in_new_memory({static_cast<std::int64_t>(bytes)}, at::kByte);
}

void BatchPool::put_back(at::Tensor block) {
  if (owner_depth_ != fork_depth()) {
    return;  // in a fork of the trainer, whose other threads may have had the mutex
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.size() < kept_) {
    free_.push_back(std::move(block));
  }
}

void BatchPool::keep(std::size_t blocks) {
  const std::lock_guard<std::mutex> lock(mutex_);
  kept_ = blocks;
  if (free_.size() > blocks) {
    free_.resize(blocks);
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
