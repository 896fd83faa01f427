#pragma once

#include <torchfeed/samplers/index_range.h>

#include <cstddef>
#include <vector>

namespace torchfeed::samplers {

/// Options of `WalkForward`. All counts are of samples.
struct WalkForwardOptions {
  /// To train on in each fold; with `expanding` in the first one, and ever more in those after. 1 and above; no
  /// default.
  std::size_t train = 0;
  /// To test on in each fold. 1 and above; no default.
  std::size_t test = 0;
  /// Folds; 0: as many as there are samples for. Default: 0.
  std::size_t folds = 0;
  /// Left out before each test, because their targets or windows reach into it. For windows of L rows, a row apart,
  /// with a target H rows ahead, H - 1 keeps targets apart, and L + H - 1 leaves no row that both sides see. Default:
  /// 0.
  std::size_t purge = 0;
  /// Left out before those, because what is near in time is alike. Default: 0.
  std::size_t embargo = 0;
  /// Whether training begins with the first sample in each fold, or moves along with the test. Default: it moves.
  bool expanding = false;
};

/// Trained on `train`, and tested on what comes later.
struct Fold {
  IndexRange train;
  IndexRange test;

  bool operator==(const Fold&) const = default;
};

/// Splits of the samples [0, size), which must be in order of time, into folds whose tests follow on each other without
/// a gap; the last test ends with the data:
///
///     fold 0   train train train . test
///     fold 1         train train train . test          (. is purged and embargoed)
///     fold 2               train train train . test
///
/// Each side of a fold is an `IndexRange`, for a `SubsetSampler`:
///
///     torch::data::datasets::TensorDataset readings(rows);  // oldest first
///     for (const Fold& fold : WalkForward(*readings.size(), {.train = 1000, .test = 250, .purge = 5})) {
///       auto train = make_data_loader(readings, SubsetSampler(fold.train, {.shuffle = true}), options);
///       auto test = make_data_loader(readings, SubsetSampler(fold.test), options);
///     }
///
/// This knows indices alone. Of market data take `datasets::FinancialDataset::walk_forward`: it cuts all instruments at
/// the same times, where the samples of one follow on those of another here, and fits scales anew to each fold's
/// training part.
class WalkForward {
 public:
  /// Throws c10::Error, with how many samples it takes, if there are too few for the folds asked for, or for one.
  WalkForward(std::size_t size, const WalkForwardOptions& options);

  /// How many folds there are samples for. Throws c10::Error if train or test is 0.
  static std::size_t most_folds(std::size_t size, const WalkForwardOptions& options);

  std::size_t size() const noexcept { return folds_.size(); }
  const Fold& operator[](std::size_t fold) const { return folds_[fold]; }
  std::vector<Fold>::const_iterator begin() const noexcept { return folds_.begin(); }
  std::vector<Fold>::const_iterator end() const noexcept { return folds_.end(); }

 private:
  std::vector<Fold> folds_;
};

}  // namespace torchfeed::samplers
