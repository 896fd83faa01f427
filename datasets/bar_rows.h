#pragma once

#include <torchfeed/datasets/column_table.h>
#include <torchfeed/datasets/csv/csv_reader.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// Bars and their features side by side, to be laid out as rows. Made by `BarRows::take`; may be moved and used in any
/// thread.
class RowBlock {
 public:
  /// Of the rows, ns since 1970-01-01 UTC.
  std::span<const std::int64_t> times() const { return std::span(bars_.times).subspan(first_); }
  /// Writes C numbers for each time to `rows`. Throws `DataError` for a number that float32 cannot hold, such as a
  /// feature that is not finite after its warm-up.
  void write(float* rows) const;

 private:
  friend class BarRows;
  /// For messages.
  struct Names {
    std::string file;
    std::vector<std::string> columns;
  };

  RowBlock() = default;
  [[noreturn]] void fail(std::size_t column, std::size_t bar) const;

  std::shared_ptr<const Names> names_;
  ColumnTable bars_;
  ColumnTable features_;
  std::vector<const double*> columns_;  // of the rows, in the tables
  std::size_t first_ = 0;               // bar that gives a row
};

/// Turns bars into float32 rows: the one function behind `FinancialDataset` of a CSV file and `convert`, so that both
/// hold the same numbers to the bit.
///
/// A row's columns are, none twice: open, high, low, close and volume as far as the bars have them, the bars' other
/// columns in their order, then `log_return` and `log_range` where they can be computed, then the features asked for.
/// Bars whose prices are not checked may have some that are not above zero, of which there are no features: there only
/// those that are asked for are computed.
/// A feature asked for that is one of the bars' five, or a column of the bars and no known feature, is that column;
/// other columns of the bars make way for a computed feature of their name. Rows begin after the warm-up of the
/// features: with plain bars row 0 is bar 1. For one thread at a time.
class BarRows {
 public:
  /// `bar_columns`: as `CsvReader::columns`. `features`: as `StreamingFeatures` takes them; c10::ValueError for an
  /// unknown one, and for one of the calendar where `csv` has another time zone than UTC, as a date's midnight there is
  /// in UTC's day before or after. `name`: of the file, for messages. `csv`: what the bars are read with.
  BarRows(std::vector<std::string> bar_columns, const std::vector<std::string>& features, std::string name,
          const CsvOptions& csv = {});
  ~BarRows();
  BarRows(BarRows&&) noexcept;
  BarRows& operator=(BarRows&&) noexcept;

  /// log_return, log_range, log_volume_change, log_close_open, as far as bars with these columns have what they need;
  /// none where prices are not checked.
  static std::vector<std::string> default_features(const std::vector<std::string>& bar_columns,
                                                   const CsvOptions& csv = {});

  /// C names.
  const std::vector<std::string>& columns() const;
  /// As asked.
  const std::vector<std::string>& features() const;
  /// Bars at the start that give no row.
  std::size_t warm_up() const;
  /// Bars so far.
  std::uint64_t bars() const;

  /// Adds to `rows` (C numbers each) and `times` what the next bars give: `take` and `RowBlock::write` in one.
  void push(ColumnTable bars, std::vector<float>& rows, std::vector<std::int64_t>& times);
  /// The next bars with their features. What is left to do for their rows needs no other bars. `bars` has the columns
  /// of the constructor, in any order; `DataError` else, and for prices and volumes that features do not take.
  RowBlock take(ColumnTable bars);

  /// All that the next bars' rows depend on. load_state is for an object of the same columns and features, c10::Error
  /// else.
  std::vector<double> state() const;
  void load_state(std::span<const double> state);
  /// What the last bar had in these columns; NaN for one that rows do not have. For `CsvReader::set_last_values`.
  std::vector<double> last_values(const std::vector<std::string>& names) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace torchfeed::datasets
