#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed::loader {

/// Memory that grows at its end.
class GrowingMemory {
 public:
  virtual ~GrowingMemory() = default;
  /// Makes it `bytes` long at least. Returns where it begins, which may be elsewhere than before.
  virtual std::byte* grow(std::uint64_t bytes) = 0;
};

/// A slot's memory, which stays where it is. Throws c10::Error if the budget is used up.
class SlotMemory final : public GrowingMemory {
 public:
  SlotMemory(SlotRing& ring, std::uint32_t index) : ring_(ring), index_(index) {}
  std::byte* grow(std::uint64_t bytes) override {
    ring_.reserve(index_, bytes);
    return ring_.payload(index_);
  }

 private:
  SlotRing& ring_;
  std::uint32_t index_;
};

/// Memory of this process.
class HeapMemory final : public GrowingMemory {
 public:
  std::byte* grow(std::uint64_t bytes) override {
    bytes_.resize(static_cast<std::size_t>(bytes));
    return reinterpret_cast<std::byte*>(bytes_.data());
  }
  std::string& bytes() noexcept { return bytes_; }

 private:
  std::string bytes_;
};

/// Hands out memory to what is being written into it, from low to high addresses. Used by one thread.
class BatchArena {
 public:
  /// Writes into `memory` from `begin` on (a batch is written behind its request, so that the request can be given to
  /// another worker if this one dies).
  BatchArena(GrowingMemory& memory, std::uint64_t begin);

  /// Memory aligned to 64 bytes; valid until the next call. Throws what the memory throws that cannot grow.
  std::byte* allocate(std::uint64_t bytes);

  /// Whether [data, data + bytes) was handed out here.
  bool contains(const void* data, std::uint64_t bytes) const noexcept;

  std::byte* base() const noexcept { return base_; }
  std::uint64_t used() const noexcept { return used_; }

  /// The values between the tensors; BatchWriter::finish puts them behind the tensors.
  std::vector<std::byte>& stream() noexcept { return stream_; }

 private:
  GrowingMemory& memory_;
  std::byte* base_;
  std::uint64_t begin_;
  std::uint64_t used_;
  std::vector<std::byte> stream_;
};

/// The arena that `empty_batch` of this thread takes its memory from; null if none.
BatchArena*& current_arena() noexcept;

}  // namespace torchfeed::loader
