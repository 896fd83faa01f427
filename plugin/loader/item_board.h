#pragma once

#include <torchfeed/plugin/loader/segment.h>

#include <cstddef>

namespace torchfeed::loader {

/// What the workers of one parallel_map and its caller tell each other beside requests and results: who is at which
/// item, and that nobody wants any more. In shared memory, so that it outlives a worker; made before workers are.
class ItemBoard {
 public:
  /// Of a worker that is at no item.
  static constexpr std::size_t kNoItem = ~std::size_t{0};

  /// Throws std::system_error if there is no shared memory.
  explicit ItemBoard(std::size_t workers);

  /// Caller: what is not begun need not be. Any thread.
  void cancel() noexcept;
  /// Worker: whether it should stop.
  bool cancelled() const noexcept;

  /// Worker: it begins `item`, or has ended its last one (kNoItem).
  void set_item(int worker, std::size_t item) noexcept;
  /// Caller: where a worker is, or was when it died.
  std::size_t item(int worker) const noexcept;

 private:
  struct Place;
  Place& place(std::size_t index) const noexcept;

  Segment segment_;
};

}  // namespace torchfeed::loader
