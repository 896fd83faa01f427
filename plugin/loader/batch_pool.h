#pragma once

#include <torchfeed/plugin/loader/fork_depth.h>

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace torchfeed::loader {

/// Memory of large batches that are made in the trainer's process, inline or by worker threads: used again once a
/// batch's tensors are gone, as slots are. New memory costs a page fault every 4 KiB, which may take longer than making
/// the batch, and threads' malloc gives large blocks back to the system each time.
///
/// Lives as long as its loader or any such tensor. Any thread of the process; in a fork of it, whose other threads may
/// have had the mutex, it gives new memory and keeps none.
class BatchPool : public std::enable_shared_from_this<BatchPool> {
 public:
  /// Smaller batches are left to malloc.
  static constexpr std::uint64_t kLeastBytes = std::uint64_t{1} << 20;

  BatchPool() { free_.reserve(kept_); }

  /// An uninitialised dense CPU tensor of at least kLeastBytes.
  at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options, std::uint64_t bytes);

  /// From now on so many blocks are kept at most that no tensor has: those that were in use last.
  void keep(std::size_t blocks);

 private:
  struct Loan;
  at::Tensor take(std::uint64_t bytes);
  void put_back(at::Tensor block) noexcept;
  bool is_owner() const noexcept { return owner_depth_ == fork_depth(); }

  const std::uint32_t owner_depth_ = fork_depth();
  std::mutex mutex_;
  std::size_t kept_ = 2;          // for a loop that has one batch while it asks for the next
  std::vector<at::Tensor> free_;  // blocks of bytes, of capacity kept_ at least; the last one was in use last
};

/// at::empty, of options that say no more than dtype, device and layout; large ones ask for huge pages.
at::Tensor empty_in_new_memory(at::IntArrayRef sizes, const at::TensorOptions& options);

/// The pool that `empty_batch` of this thread takes large tensors from; null if none.
BatchPool*& current_pool() noexcept;

}  // namespace torchfeed::loader
