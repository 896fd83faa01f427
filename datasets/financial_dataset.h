#pragma once

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>
#include <torch/types.h>

#include <torchfeed/datasets/data_error.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// What a sample's target says of the bar that follows its window.
enum class Target {
  kVolatility,  ///< `log_range`, log(log(high / low)), standardised.
  kReturn,      ///< `log_return`, log(close / previous close), standardised.
  kDirection,   ///< Sign of `log_return`: 1, -1, or 0 where the close did not move. Not scaled.
};

/// Parts of the data in the order of time.
enum class Split { kTrain, kValidation, kTest };

/// Options of `FinancialDataset::open`.
struct FinancialOptions {
  /// Rows in a window, L. Range: 1 and above. Default: 50. c10::ValueError else.
  int64_t sequence_length = 50;
  /// Default: `Target::kVolatility`.
  Target target = Target::kVolatility;
  /// First date to read, inclusive, YYYY-MM-DD. Default: empty, from the first bar on. c10::ValueError if no date.
  std::string from{};  // Braces, as without an initialiser GCC warns where a designated list leaves it out.
  /// Last date to read, inclusive, YYYY-MM-DD. Default: empty, to the last bar. c10::ValueError if no date or before
  /// `from`.
  std::string to{};
  /// Share of the rows in the training part. Range: above 0, below 1. Default: 0.70. c10::ValueError else.
  double train_fraction = 0.70;
  /// Share of the rows in the validation part; the test part takes what is left. Range: above 0, with
  /// `train_fraction` below 1. Default: 0.15. c10::ValueError else.
  double validation_fraction = 0.15;
};

/// Windows over the daily bars of one instrument, with a target taken from the bar after each.
///
/// A *row* holds the features of one bar: C float32 numbers. The first bar in range has no bar before it, so row r
/// belongs to bar r + 1, and B bars give T = B - 1 rows. Sample i of the whole data is the window of rows
/// [i, i + L) with the target of row i + L, so there are T - L samples.
///
/// Features, in this order, each as the function of its name in features.h defines it:
/// | feature | of a bar |
/// |---|---|
/// | `log_return` | log(close / previous close) |
/// | `log_range` | log(log(high / low)), with a floor for bars that hardly moved |
/// | `log_volume_change` | log(volume / previous volume); 0 where either is zero |
/// | `log_close_open` | log(close / open) |
///
/// **Parts.** The T rows are cut by time into training, validation and test parts, first floor(T * train_fraction)
/// rows, then up to floor(T * (train_fraction + validation_fraction)), then the rest. A sample belongs to the part in
/// which its target row lies. So the parts' targets do not overlap, and a longer window leaves validation and test
/// targets as they are. Windows of validation and test samples may reach back into the part before, as the past is
/// known when a forecast is made; no window reaches its target's row or any later one.
///
/// **Scaling.** Each feature, and the target unless it is the direction, is standardised as (value - mean) / deviation
/// with the mean and the population deviation of the training part's rows alone. A feature that does not vary there
/// is only centred (its deviation counts as 1).
///
/// Copies share one immutable table, so they and `split` cost a reference each. All methods may be called from many
/// threads at once, and in forked processes.
class FinancialDataset : public torch::data::datasets::BatchDataset<FinancialDataset, torch::data::Example<>> {
 public:
  /// Reads `path` (the CSV that `read_prices` takes) and computes all rows; the view is of the whole data.
  ///
  /// Throws `DataError` for what is wrong in the file, and if the range [from, to] leaves too few bars for one sample
  /// in each part; c10::ValueError for what is wrong in `options`.
  static FinancialDataset open(const std::string& path, const FinancialOptions& options = {});

  /// A view of one part of the whole data, whatever part this view is of. It shares the rows.
  FinancialDataset split(Split part) const;

  /// Gathers the samples at `indices` (of this view, in any order, repeats allowed).
  ///
  /// data: [B, L, C] float32, target: [B] float32, both in memory from `empty_batch`, so that a loader's worker writes
  /// straight into the batch's slot. c10::IndexError if an index is not below `size()`.
  torch::data::Example<> get_batch(c10::ArrayRef<size_t> indices) override;

  /// Samples in this view.
  torch::optional<size_t> size() const override;

  const FinancialOptions& options() const;
  /// L.
  int64_t sequence_length() const;
  /// C.
  int64_t features() const;
  /// C names, in the order of the columns of `data`.
  const std::vector<std::string>& feature_names() const;
  /// T, rows of the whole data.
  int64_t rows() const;

  /// @name Targets, for measures and baselines
  /// The series holds the same quantity as the targets, on the same scale, for every row of the whole data. What is
  /// known when sample i is forecast are its rows before `target_row(i)`: last day's value is
  /// `target_series()[target_row(i) - 1]`, a mean of the last 10 is over [target_row(i) - 10, target_row(i)).
  /// Zero is the training mean, unless the target is the direction.
  /// @{

  /// [T] float32, row by row.
  const std::vector<float>& target_series() const;
  /// Row of sample i's target, one after its window's last row. c10::IndexError if i is not below `size()`.
  int64_t target_row(size_t i) const;
  /// Sample i's target, as `get_batch` gives it. c10::IndexError as above.
  float target(size_t i) const;
  /// The targets of all samples of this view, in the order of time.
  std::vector<float> targets() const;
  /// @}

  /// @name Scales fitted on the training part
  /// value = scaled * deviation + mean. 0 and 1 for the direction.
  /// @{
  double target_mean() const;
  double target_stddev() const;
  /// C numbers each.
  const std::vector<double>& feature_mean() const;
  const std::vector<double>& feature_stddev() const;
  /// @}

  /// Date of a row of the whole data, YYYY-MM-DD. c10::IndexError if row is not in [0, rows()).
  std::string date(int64_t row) const;
  /// Dates of this view's first and last target, YYYY-MM-DD.
  std::string first_target_date() const;
  std::string last_target_date() const;

 private:
  struct Table;

  FinancialDataset(std::shared_ptr<const Table> table, int64_t first_target, int64_t end_target);

  std::shared_ptr<const Table> table_;
  /// Target rows of this view: [first_target_, end_target_).
  int64_t first_target_;
  int64_t end_target_;
};

}  // namespace torchfeed::datasets
