#pragma once

#include <torchfeed/plugin/loader/fork_depth.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace torchfeed::loader {

/// CUDA's functions that make memory of ours page-locked, so that it can be copied to a GPU asynchronously.
struct HostMemoryDriver {
  int (*add)(void* begin, std::size_t bytes, unsigned flags) = nullptr;
  int (*remove)(void* begin) = nullptr;
  int (*wait)() = nullptr;  ///< until the GPU has done all that it was asked for
};

/// CUDA's runtime, if LibTorch has a GPU and the runtime is loaded as a library; warns once with the reason if not.
std::optional<HostMemoryDriver> find_host_memory_driver();

/// Slots registered with the driver as they are first used: once for each size that a slot grows to, not once a batch.
/// One thread at a time.
class PinnedSlots {
 public:
  explicit PinnedSlots(HostMemoryDriver driver) : driver_(driver) {}
  ~PinnedSlots();
  PinnedSlots(const PinnedSlots&) = delete;
  PinnedSlots& operator=(const PinnedSlots&) = delete;

  /// Makes sure that the first `bytes` of slot `index`, which begins at `begin`, are registered. What the driver
  /// refuses stays ordinary memory, with a warning; as many bytes or more are not tried again.
  void pin(std::uint32_t index, void* begin, std::size_t bytes);
  /// Takes a slot's registration back: before its memory goes.
  void unpin(std::uint32_t index);
  /// Before a slot is free: the GPU may be copying from it still, unknown to LibTorch, which keeps only memory of its
  /// own until such copies are done. Any thread.
  void wait() const { driver_.wait(); }

 private:
  struct Range {
    void* begin = nullptr;
    std::size_t bytes = 0;
  };

  HostMemoryDriver driver_;
  std::vector<Range> slots_;
  std::size_t refused_bytes_ = ~std::size_t{0};
  const std::uint32_t owner_depth_ = fork_depth();
};

}  // namespace torchfeed::loader
