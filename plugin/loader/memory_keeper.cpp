#include <torchfeed/plugin/loader/memory_keeper.h>

#include <algorithm>
#include <utility>

namespace torchfeed::loader {
namespace {

// Sizes are remembered for one to two spans of so many batches.
constexpr std::uint32_t kSpan = 64;
// What a slot may hold beyond twice the largest batch, so that small ones never shrink.
constexpr std::uint64_t kSlackBytes = std::uint64_t{1} << 20;

}  // namespace

void MemoryKeeper::saw(std::uint64_t bytes) noexcept {
  largest_ = std::max(largest_, bytes);
  if (++seen_ < std::max(kSpan, ring_.size())) {
    return;
  }
  seen_ = 0;
  largest_before_ = std::exchange(largest_, bytes);
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    if (ring_.word(i).state == SlotState::kFree) {
      trim(i);
    }
  }
}

void MemoryKeeper::trim(std::uint32_t index) noexcept {
  if (ring_.charged_bytes(index) > 2 * largest() + kSlackBytes) {
    shrink(index, largest());
  }
}

std::uint64_t MemoryKeeper::needed() const noexcept {
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    switch (ring_.word(i).state) {
      case SlotState::kFree:
        break;
      case SlotState::kPosted:
      case SlotState::kTaken:
        sum += std::max(ring_.charged_bytes(i), largest());
        break;
      default:
        sum += ring_.charged_bytes(i);
    }
  }
  return sum;
}

bool MemoryKeeper::fits_one_more() noexcept {
  if (clearly_fits()) {
    return true;
  }
  const std::uint64_t budget = ring_.header().budget_bytes;
  if (needed() + largest() > budget) {
    return false;
  }
  // The free slot that will be used next is the first; what it has already counts.
  std::uint64_t had = 0;
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    if (ring_.word(i).state == SlotState::kFree) {
      had = std::min(ring_.charged_bytes(i), largest());
      break;
    }
  }
  if (ring_.charged_bytes() + largest() - had > budget) {
    give_back_all();
  }
  return true;
}

bool MemoryKeeper::fits_one_more_beside(std::uint32_t index) const noexcept {
  if (clearly_fits()) {
    return true;
  }
  std::uint64_t kept = ring_.charged_bytes(index);
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    if (i != index && ring_.word(i).state == SlotState::kLeased) {
      kept += ring_.charged_bytes(i);
    }
  }
  return kept + largest() <= ring_.header().budget_bytes;
}

void MemoryKeeper::shrink(std::uint32_t index, std::uint64_t bytes) noexcept {
  if (pinned_) {
    pinned_->unpin(index);
  }
  ring_.shrink(index, bytes);
}

bool MemoryKeeper::give_back_all() noexcept {
  bool any = false;
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    if (ring_.charged_bytes(i) != 0 && ring_.word(i).state == SlotState::kFree) {
      shrink(i, 0);
      any = true;
    }
  }
  return any;
}

}  // namespace torchfeed::loader
