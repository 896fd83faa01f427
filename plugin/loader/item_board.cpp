#include <torchfeed/plugin/loader/item_board.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <type_traits>

namespace torchfeed::loader {

/// A cache line of its own, as each is written by one worker at every item. The first is the caller's: not 0 when
/// cancelled.
struct ItemBoard::Place {
  alignas(64) std::atomic<std::uint64_t> value;
};

ItemBoard::ItemBoard(std::size_t workers) : segment_((workers + 1) * sizeof(Place)) {
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::is_standard_layout_v<Place>);
  if (const int error = segment_.commit(0, segment_.size()); error != 0) {
    throw std::system_error(error, std::generic_category(), "torchfeed: shared memory for parallel_map");
  }
  new (segment_.data()) Place{};
  for (std::size_t i = 1; i <= workers; ++i) {
    new (segment_.data() + i * sizeof(Place)) Place{kNoItem};
  }
}

// Relaxed: each value stands for itself, and nothing else is read because of it.
void ItemBoard::cancel() noexcept { place(0).value.store(1, std::memory_order_relaxed); }

bool ItemBoard::cancelled() const noexcept { return place(0).value.load(std::memory_order_relaxed) != 0; }

void ItemBoard::set_item(int worker, std::size_t item) noexcept {
  place(static_cast<std::size_t>(worker) + 1).value.store(item, std::memory_order_relaxed);
}

std::size_t ItemBoard::item(int worker) const noexcept {
  return static_cast<std::size_t>(place(static_cast<std::size_t>(worker) + 1).value.load(std::memory_order_relaxed));
}

ItemBoard::Place& ItemBoard::place(std::size_t index) const noexcept {
  return *std::launder(reinterpret_cast<Place*>(segment_.data() + index * sizeof(Place)));
}

}  // namespace torchfeed::loader
