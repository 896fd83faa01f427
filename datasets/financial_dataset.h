#pragma once

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>
#include <torch/types.h>

#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial_options.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::datasets {

/// Windows over the bars of one or many instruments, each with a target taken from the bars after it.
///
/// A *row* holds the columns of one bar as float32: its prices and features. Rows begin where all features are known
/// (with the default ones at bar 1, as bar 0 has no return). A sample is a window of L consecutive rows of the features
/// asked for, and a target made of the h rows after it (see `Target`). With T rows an instrument has
/// floor((T - L - h) / stride) + 1 samples; samples are numbered instrument by instrument, in the order of time.
/// No window reaches from one instrument into another, and none reaches its target's rows or any later one.
///
/// **Where rows come from.** A CSV file is read whole and its rows computed (see `convert` about columns), a directory
/// that `convert` wrote is mapped. With the same features, and in float32, both have the same rows, to the bit: rows
/// begin where all of the features are known, so that a directory with more of them may begin later. Targets are made
/// of the rows as they are stored: in float16 or bfloat16 they are rounded like these. With `lazy_loading` mapped rows
/// stay where they are: opening reads some of them, and each window touches its own. Memory-mapped pages count as the
/// process's while they are in use, but the kernel may take them back. Files must not be cut short while they are used;
/// `convert --append` replaces them, which is safe: this stays with the rows that it opened, all of one version.
///
/// **Parts.** The T rows of all instruments together, in the order of time, are cut into training, validation and test
/// parts: the validation part begins at the time of row floor(T * train_fraction), the test part at that of row
/// floor(T * (train_fraction + validation_fraction)), for all instruments alike. A sample belongs to the part in which
/// all of its target's rows lie; samples whose target reaches into the next part, or comes closer to it than `purge`,
/// and those whose target begins within `embargo` rows after a part's begin belong to none. So the parts' targets do
/// not overlap. Windows of validation and test samples may reach back into the part before, as the past is known when a
/// forecast is made.
///
/// **Scaling** is fitted to the training part's rows alone, of all instruments together, and applied to every part. A
/// feature that does not vary there is only centred. The mean and deviation of columns come from all these rows; the
/// quantiles of `Scaling::kRobust` from at most 2^20 of them, and mean and deviation of returns and of targets over
/// several rows from at most 2^16: with more, from 256 stretches at equal distances.
///
/// Copies and parts share one immutable table, so they cost a reference each. All methods may be called from many
/// threads at once, and in forked processes.
class FinancialDataset : public torch::data::datasets::BatchDataset<FinancialDataset, torch::data::Example<>> {
 public:
  /// Opens a CSV file (the one that `CsvReader` takes), a directory that `convert` wrote for an instrument, or a
  /// directory of such (in the order of their names). The view is of the whole data.
  ///
  /// Throws `DataError` for what is wrong in the files (rows must be finite, as `convert` writes them, which is checked
  /// where statistics of them are stored), for two instruments of one name, and if there are too few rows for one
  /// sample in each part; c10::ValueError for what is wrong in `options`.
  static FinancialDataset open(const std::string& path, const FinancialOptions& options = {});

  /// The same for several, one instrument after another.
  static FinancialDataset open(const std::vector<std::string>& paths, const FinancialOptions& options = {});

  /// A view of one part of the whole data, whatever part this view is of. It shares the rows.
  FinancialDataset split(Split part) const;

  /// Views of the whole data cut again and again, as time goes by: each fold's test part begins where the one before
  /// ended, and its training part, with scales of its own, lies before it. `split` gives a fold's parts, of which the
  /// validation part may be empty; purge and embargo are those of `open`. Folds share the rows and gather from them as
  /// with `lazy_loading`.
  ///
  /// Throws c10::ValueError for what is wrong in `options`, `DataError` if a fold has no sample for training or test.
  std::vector<FinancialDataset> walk_forward(const WalkForwardOptions& options = {}) const;

  /// Gathers the samples at `indices` (of this view, in any order, repeats allowed).
  ///
  /// data: [B, L, C] float32, target: [B] float32, both in memory from `empty_batch`, so that a loader's worker writes
  /// straight into the batch's slot. c10::IndexError if an index is not below `size()`.
  torch::data::Example<> get_batch(c10::ArrayRef<std::size_t> indices) override;

  /// Samples in this view.
  torch::optional<std::size_t> size() const override;

  const FinancialOptions& options() const;
  /// L.
  std::int64_t sequence_length() const;
  /// C.
  std::int64_t features() const;
  /// C names, in the order of the columns of `data`.
  const std::vector<std::string>& feature_names() const;

  std::size_t instruments() const;
  /// Name of an instrument: its file's without .csv or .csv.gz. c10::IndexError if there are not so many.
  const std::string& instrument_name(std::size_t instrument) const;
  /// The file or directory that an instrument was read from. c10::IndexError as above.
  const std::string& instrument_source(std::size_t instrument) const;
  /// T, rows of an instrument between `from` and `to`. c10::IndexError as above.
  std::int64_t rows(std::size_t instrument = 0) const;

  /// @name Targets, for measures and baselines
  /// The series holds the same quantity as the targets, on the same scale, for every row of an instrument. What is
  /// known when sample i is forecast are its rows before `target_row(i)`. With a horizon of 1 the last value known is
  /// `target_series()[target_row(i) - 1]`; with one of h it is that at target_row(i) - h. Zero is the training mean
  /// where targets are scaled.
  /// @{

  /// [T] float32: at r, the target of rows r to r + horizon - 1. NaN where they are not all there, and at row 0 for
  /// `Target::kFunction`, which sees the row before. Computed at each call. c10::IndexError as above.
  std::vector<float> target_series(std::size_t instrument = 0) const;
  /// The instrument of sample i. c10::IndexError if i is not below `size()`.
  std::size_t target_instrument(std::size_t i) const;
  /// First row of sample i's target, one after its window's last row. c10::IndexError as above.
  std::int64_t target_row(std::size_t i) const;
  /// Sample i's target, as `get_batch` gives it. c10::IndexError as above.
  float target(std::size_t i) const;
  /// The targets of all samples of this view, in their order.
  std::vector<float> targets() const;
  /// @}

  /// @name Scales fitted on the training part
  /// value = scaled * deviation + mean. 0 and 1 where nothing is scaled, and for `Scaling::kWindow`; median and scaled
  /// interquartile range for `Scaling::kRobust`.
  /// @{
  double target_mean() const;
  double target_stddev() const;
  /// C numbers each.
  std::vector<double> feature_mean() const;
  std::vector<double> feature_stddev() const;
  /// @}

  /// Time of an instrument's row, ns since 1970-01-01 UTC. c10::IndexError if row is not in [0, rows(instrument)).
  std::int64_t time(std::int64_t row, std::size_t instrument = 0) const;
  /// Its date, YYYY-MM-DD in UTC.
  std::string date(std::int64_t row, std::size_t instrument = 0) const;
  /// Dates of the earliest and the latest first row of a target in this view. c10::IndexError if it is empty.
  std::string first_target_date() const;
  std::string last_target_date() const;

 private:
  struct View;

  explicit FinancialDataset(std::shared_ptr<const View> view) : view_(std::move(view)) {}

  std::shared_ptr<const View> view_;
};

}  // namespace torchfeed::datasets
