#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial/scale.h>
#include <torchfeed/datasets/financial_options.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace torchfeed::datasets::financial {

/// The number to predict, before it is scaled. Const methods may be called from any thread.
class TargetRule {
 public:
  /// Throws `DataError` if an instrument lacks the column that the target is made of.
  TargetRule(const FinancialOptions& options, std::span<const Instrument> instruments);

  /// The first row of an instrument that can have a target: functions see the row before.
  std::int64_t first_row() const { return target_ == Target::kFunction ? 1 : 0; }

  /// Of the rows [row, row + horizon) of instrument number `index`, which must be there.
  double operator()(const Instrument& instrument, std::size_t index, std::int64_t row) const {
    if (is_column_) return instrument.value(row + horizon_ - 1, columns_[index].front());
    return computed(instrument, index, row);
  }

  /// Fits the scale to targets that lie whole within the training ranges. That of a single row's log return or range,
  /// and of a column, is the column's own, from stored statistics; others are computed from 2^16 rows at most,
  /// `sample_of` their ranges.
  Scale fit(std::span<const Instrument> instruments, std::span<const RowRange> training) const;

 private:
  double computed(const Instrument& instrument, std::size_t index, std::int64_t row) const;
  double sum(const Instrument& instrument, std::size_t column, std::int64_t row) const;
  /// Sign of the sum of log returns. Where it is no more than their rounding, as where the price came back, the closes
  /// tell, if there are any.
  double direction(const Instrument& instrument, std::size_t index, std::int64_t row) const;

  Target target_;
  std::int64_t horizon_;
  /// Whether it is the number in a column of its last row: a log return or range of a single row is, too.
  bool is_column_;
  bool scaled_;
  std::function<double(const FutureRows&)> function_;
  /// [instruments][0 or 1]: the column that the target is made of, if there is one.
  ColumnPlaces columns_;
  /// [instruments].
  std::vector<std::optional<std::size_t>> closes_;
};

}  // namespace torchfeed::datasets::financial
