#pragma once

#include <torchfeed/plugin/loader/fork_depth.h>
#include <torchfeed/plugin/loader/pinned_slots.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace torchfeed::loader {

/// A ring and how many of its slots the trainer's tensors hold. Lives as long as the loader or any such tensor.
struct LeasedRing {
  LeasedRing(std::uint32_t slot_count, std::uint64_t budget_bytes, std::uint32_t spins)
      : ring(slot_count, budget_bytes, spins) {}

  SlotRing ring;
  std::optional<PinnedSlots> pinned;  // ends before the memory does
  std::atomic<std::uint32_t> leased{0};
  const std::uint32_t owner_depth = fork_depth();
};

/// One batch's hold on its slot, shared by the batch's tensors. Counts references by itself, as ATen's deleters take a
/// plain pointer. Any thread of the trainer.
class Lease {
 public:
  /// done -> leased. The caller holds the first reference.
  Lease(std::shared_ptr<LeasedRing> owner, std::uint32_t index) : owner_(std::move(owner)), index_(index) {
    owner_->leased.fetch_add(1, std::memory_order_relaxed);
    owner_->ring.lease(index_);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  void retain() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }

  /// The last one frees the slot: whatever was read or written through its tensors came before (acq_rel).
  void release() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      delete this;
    }
  }

 private:
  ~Lease() {
    if (owner_->owner_depth == fork_depth()) {
      if (owner_->pinned) {
        owner_->pinned->wait();
      }
      owner_->ring.free(index_);
      owner_->leased.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  std::shared_ptr<LeasedRing> owner_;
  std::uint32_t index_;
  std::atomic<std::uint32_t> references_{1};
};

}  // namespace torchfeed::loader
