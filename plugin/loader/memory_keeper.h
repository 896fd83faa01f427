#pragma once

#include <torchfeed/plugin/loader/lease.h>
#include <torchfeed/plugin/loader/pinned_slots.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstdint>
#include <optional>

namespace torchfeed::loader {

/// Keeps a loader's slots within their memory: how large batches are of late, whether one more fits, and giving back
/// what free slots hold. The trainer, one thread at a time.
class MemoryKeeper {
 public:
  explicit MemoryKeeper(LeasedRing& shared) : ring_(shared.ring), pinned_(shared.pinned) {}

  /// A batch took, or wanted, so many bytes of its slot. Now and then trims free slots.
  void saw(std::uint64_t bytes) noexcept;

  /// Gives back what a free slot has far beyond the largest batch of late.
  void trim(std::uint32_t index) noexcept;

  /// Whether one more batch, as large as the largest of late, fits beside those that are under way or kept. Free slots
  /// give up their memory if that makes it fit.
  bool fits_one_more() noexcept;

  /// Whether the same holds when slot `index`, done, is kept for long.
  bool fits_one_more_beside(std::uint32_t index) const noexcept;

  /// Takes what a slot of the trainer's has beyond `bytes`.
  void shrink(std::uint32_t index, std::uint64_t bytes) noexcept;

  /// Takes all memory from free slots. Whether there was any.
  bool give_back_all() noexcept;

 private:
  std::uint64_t largest() const noexcept { return largest_ > largest_before_ ? largest_ : largest_before_; }
  bool clearly_fits() const noexcept { return ring_.charged_bytes() + largest() <= ring_.header().budget_bytes; }
  /// Bytes of slots that are not free; each that a worker has or may claim counts as the largest.
  std::uint64_t needed() const noexcept;

  SlotRing& ring_;
  std::optional<PinnedSlots>& pinned_;
  std::uint64_t largest_ = 0;         // of this span of batches
  std::uint64_t largest_before_ = 0;  // of the span before
  std::uint32_t seen_ = 0;            // in this span
};

}  // namespace torchfeed::loader
