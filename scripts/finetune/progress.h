#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace torchfeed::finetune {

/// Where an epoch is.
struct EpochProgress {
  int64_t epoch = 0;  ///< the first is 1
  int64_t epochs = 0;
  size_t samples = 0;  ///< done of this epoch
  size_t epoch_samples = 0;
  double train_loss = 0;  ///< mean over `samples`
  double samples_per_second = 0;
  double wait_fraction = 0;  ///< share of the time in which the trainer waited for data
};

/// Tells on stderr how training goes: a bar that is drawn anew on a terminal, a line an epoch elsewhere.
class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// After a batch. Draws at most ten times a second, and nothing where there is no terminal.
  void batch(const EpochProgress& progress);

  /// After an epoch.
  void epoch(const EpochProgress& progress, double validation_loss, bool is_best);

  /// A line of its own.
  void line(const std::string& text);

 private:
  void clear_bar();

  bool quiet_;
  bool terminal_;
  bool bar_drawn_ = false;
  std::chrono::steady_clock::time_point last_drawn_{};
};

}  // namespace torchfeed::finetune
