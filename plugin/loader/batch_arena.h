#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstddef>
#include <vector>

namespace torchfeed::loader {

/// Hands out a slot's memory to what is being written into it, from low to high addresses. One a slot and writing;
/// used by the thread that owns the slot.
class BatchArena {
 public:
  /// Writes into slot `index` from `begin` on (a batch is written behind its request, so that the request can be
  /// given to another worker if this one dies).
  BatchArena(SlotRing& ring, std::uint32_t index, std::uint64_t begin);

  /// Memory aligned to 64 bytes. Throws c10::Error if the budget is used up.
  std::byte* allocate(std::uint64_t bytes);

  /// Whether [data, data + bytes) was handed out here.
  bool contains(const void* data, std::uint64_t bytes) const noexcept;

  std::byte* base() const noexcept { return base_; }
  std::uint64_t used() const noexcept { return used_; }

  /// The values between the tensors; BatchWriter::finish puts them behind the tensors.
  std::vector<std::byte>& stream() noexcept { return stream_; }

 private:
  SlotRing& ring_;
  std::uint32_t index_;
  std::byte* base_;
  std::uint64_t begin_;
  std::uint64_t used_;
  std::vector<std::byte> stream_;
};

/// The arena that `empty_batch` of this thread takes its memory from; null if none.
BatchArena*& current_arena() noexcept;

}  // namespace torchfeed::loader
