#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

namespace torchfeed {

/// How far work is: on a terminal one line that is drawn anew, elsewhere a plain line now and then, and one at the end.
/// Used by one thread at a time.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;

  /// Of `total` items, from now on, to `out`, which is a terminal or not. `unit`: what they are called.
  explicit ProgressBar(std::size_t total, std::FILE* out = stderr, Clock::time_point now = Clock::now(),
                       std::string unit = "items");
  /// Leaves no bar behind, if not all was done.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// So many items more are done. Draws at most ten times a second on a terminal, writes at most ten lines and one at
  /// the end elsewhere, but none in the first second.
  void add(std::size_t items, Clock::time_point now = Clock::now());

  /// What there is to say of `done` items of `total` (more count as all) after `seconds`:
  /// "[######......] 512/1000 items  51 %  205 items/s  2.4 s left".
  static std::string text(std::size_t done, std::size_t total, double seconds, const std::string& unit = "items");

 private:
  std::size_t total_;
  std::FILE* out_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  std::size_t done_ = 0;
  std::size_t told_ = 0;  // done_ when it was last told
  Clock::time_point begin_;
  Clock::time_point last_;
};

}  // namespace torchfeed
