#pragma once

#include <torchfeed/datasets/csv/csv_reader.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// What a sample's target says of the `horizon` bars that follow its window: rows 1 to h, row 0 being the window's
/// last.
enum class Target {
  kVolatility,  ///< Mean of `log_range`, log(log(high / low)), over rows 1 to h.
  kReturn,      ///< Close of row h over close of row 0, minus 1.
  /// Sign of the return: 1, -1, or 0 where the close did not move, as far as the rows tell: a sum of returns within
  /// their rounding is decided by the column `close`, and is 0 where there is none. Not scaled.
  kDirection,
  kLogReturn,  ///< log(close of row h / close of row 0), the sum of `log_return` over rows 1 to h.
  kColumn,     ///< Value of the column `target_column` in row h.
  kFunction,   ///< What `target_function` makes of the rows. Not scaled.
};

/// How features are brought to a like size, each by itself.
enum class Scaling {
  kNone,      ///< Not at all.
  kStandard,  ///< (value - mean) / deviation of the training part's rows of all instruments.
  kRobust,    ///< (value - median) / (interquartile range / 1.349) of the same, for columns with wild values.
  kWindow,    ///< (value - mean) / deviation of the window's own rows.
};

/// Parts of the data in the order of time.
enum class Split { kTrain, kValidation, kTest };

namespace financial {
struct Instrument;
}

/// What a target function sees: the last row of a window and the `horizon` rows after it, unscaled.
class FutureRows {
 public:
  FutureRows(const financial::Instrument& instrument, std::int64_t last_row, std::int64_t horizon)
      : instrument_(instrument), last_row_(last_row), horizon_(horizon) {}

  std::int64_t horizon() const { return horizon_; }

  /// Value of a column `step` rows after the window's last: 0 is that row itself, 1 to horizon() are the future.
  /// c10::IndexError for a step or a column that is not there.
  double value(std::int64_t step, std::size_t column) const;

  /// Place of a column, by its name in lower case: the prices of the file (open, high, low, close, volume and others)
  /// and all features. Throws `DataError` if there is none. Slow: find a column once, not for every sample; a place
  /// holds for all samples of one instrument.
  std::size_t column(const std::string& name) const;

  /// Time of row `step`, ns since 1970-01-01 UTC. c10::IndexError as above.
  std::int64_t time(std::int64_t step) const;

  const std::string& instrument() const;

 private:
  std::int64_t row_of(std::int64_t step) const;

  const financial::Instrument& instrument_;
  std::int64_t last_row_;
  std::int64_t horizon_;
};

/// Options of `FinancialDataset::open`.
struct FinancialOptions {
  /// Rows in a window, L. Range: 1 and above. Default: 50. c10::ValueError else.
  std::int64_t sequence_length = 50;
  /// Rows from one window's begin to the next one's. Range: 1 and above. Default: 1. c10::ValueError else.
  std::int64_t stride = 1;
  /// Rows that a target looks ahead, h. Range: 1 and above. Default: 1. c10::ValueError else.
  std::int64_t horizon = 1;
  /// Default: `Target::kVolatility`.
  Target target = Target::kVolatility;
  /// Name of the column for `Target::kColumn`, and empty for others. c10::ValueError else.
  std::string target_column{};  // Braces, as without an initialiser GCC warns where a designated list leaves it out.
  /// For `Target::kFunction`, and empty for others. c10::ValueError else. Called from many threads and processes, once
  /// or more a sample, it must always give the same number for the same rows.
  std::function<double(const FutureRows&)> target_function{};
  /// Columns of a window, by name, in this order: features (see `convert --help`) and columns of the data (close,
  /// volume, ...). Of converted directories, what they were converted with. Default: those of log_return, log_range,
  /// log_volume_change, log_close_open that all instruments have (without a volume there is no change of it; see
  /// `feature_names()`). c10::ValueError if one is named twice, `DataError` if one is not to be had.
  std::vector<std::string> features{};
  /// Default: `Scaling::kStandard`.
  Scaling scaling = Scaling::kStandard;
  /// Whether targets, but for directions and functions, are standardised by the training part. Default: true.
  bool scale_target = true;
  /// Whether rows stay where they are, mapped from a converted directory, and windows are gathered and scaled when they
  /// are asked for: opening reads no more than the scales need, and memory stays near what is touched, whatever the
  /// size. With `Scaling::kStandard` and a target that is a column's value in one row, that is less than two blocks of
  /// 65,536 rows an instrument (milliseconds, as columns' moments are stored); 2^16 rows more for other targets, 2^20
  /// rows for `Scaling::kRobust` (seconds, from a cold disk). Else all rows are scaled once, when they are read, and
  /// windows are copied. The batches are the same. (A CSV file has to be read whole in either case.) Default: false.
  bool lazy_loading = false;
  /// First date of rows, inclusive, YYYY-MM-DD in UTC. Features of the first rows may still look back before it.
  /// Default: empty, from the first row on. c10::ValueError if no date.
  std::string from{};
  /// Last date of rows, inclusive. Default: empty, to the last row. c10::ValueError if no date or before `from`.
  std::string to{};
  /// Share of the rows in the training part. Range: above 0, below 1. Default: 0.70. c10::ValueError else.
  double train_fraction = 0.70;
  /// Share of the rows in the validation part; the test part takes what is left. Range: above 0, with
  /// `train_fraction` below 1. Default: 0.15. c10::ValueError else.
  double validation_fraction = 0.15;
  /// Rows that a target's first row stays away from the end of its part, where another part follows. Range: 0 and
  /// above; horizon - 1 at least is kept in any case, so that no target reaches into the next part. Default: 0.
  /// c10::ValueError else.
  std::int64_t purge = 0;
  /// Rows at the begin of the validation and the test part that are nobody's target. Range: 0 and above. Default: 0.
  /// c10::ValueError else.
  std::int64_t embargo = 0;
  /// How CSV files are read: the times' column and zone, missing values, threads. std::invalid_argument for what is
  /// wrong in it.
  CsvOptions csv{};
};

/// Options of `FinancialDataset::walk_forward`.
struct WalkForwardOptions {
  /// Test parts one after another. Range: 1 to the number of rows, and to 2^31 - 1. Default: 5. c10::ValueError else.
  std::int64_t folds = 5;
  /// Share of the rows before the first test part. The rest is divided evenly among the folds' test parts. Range: above
  /// 0, below 1. Default: 0.5. c10::ValueError else.
  double train_fraction = 0.5;
  /// Share of the rows before a test part, its last ones, that are for validation. Range: 0 (none) and above, below 1.
  /// Default: 0. c10::ValueError else.
  double validation_fraction = 0;
  /// Whether a fold trains on all rows before its test part, or on as many as the first fold. Default: true.
  bool expanding = true;
};

}  // namespace torchfeed::datasets
