#pragma once

#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace torchfeed::loader {

/// Batches that so many workers may be asked for ahead, where they are small. With the option max_jobs never more than
/// that.
std::size_t most_jobs(const FullDataLoaderOptions& options, std::size_t workers) noexcept;

/// How far ahead batches are asked for. Those that are made faster than workers and trainer can be woken are asked for
/// further ahead, so that each wake-up brings several. The trainer, one thread at a time.
class Lookahead {
 public:
  /// The longest that the trainer sleeps for the sake of late_result(), which may be a slow one among small ones.
  static constexpr std::chrono::microseconds kLongestLate{800};

  /// `options` live longer.
  explicit Lookahead(const FullDataLoaderOptions& options) : options_(options) {}

  /// A batch took a worker so long.
  void saw_time(std::int64_t nanoseconds) noexcept;

  /// Requests that so many workers should have under way, with batches as they are.
  std::size_t jobs(std::size_t workers) const noexcept;

  /// Where batches are small and there is no core for the trainer to look for them all the time: the request in flight
  /// whose result is to wake it, so that it finds several, and the workers have as many left to do meanwhile. Processes
  /// alone: threads that are all at work at once were half as fast, on the same tensors' reference counts.
  std::optional<std::uint32_t> late_result(const SlotRing& ring, const std::deque<std::uint32_t>& in_flight,
                                           std::size_t workers) const noexcept;

 private:
  const FullDataLoaderOptions& options_;
  std::int64_t usual_nanoseconds_ = 0;  // a worker takes for a batch; 0: not known
};

}  // namespace torchfeed::loader
