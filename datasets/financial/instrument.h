#pragma once

#include <torchfeed/datasets/row_statistics.h>
#include <torchfeed/datasets/row_type.h>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::financial {

/// The rows of one instrument, oldest first, with the times of their bars: in memory or mapped, shared by all views of
/// them and never changed. Any thread may read.
struct Instrument {
  std::string name;
  /// What it was read from, for messages.
  std::string source;
  /// Names of the columns, in lower case.
  std::vector<std::string> columns;
  RowType type = RowType::kFloat32;
  /// [size, columns] of `type`, row by row.
  const void* rows = nullptr;
  /// [size], ns since 1970-01-01 UTC, ascending.
  const std::int64_t* times = nullptr;
  std::int64_t size = 0;
  /// Blocks of kStatisticsBlock rows begin at row `first_row` before row 0, so that a part of the rows can use what was
  /// stored for all: [blocks, columns, 2], mean and sum of squared deviations of each column.
  const double* statistics = nullptr;
  std::int64_t first_row = 0;
  /// Rows in all blocks: the last block may have fewer than the others.
  std::int64_t rows_in_blocks = 0;
  /// What the pointers point into.
  std::shared_ptr<const void> storage;

  /// Place of a column with this name (in lower case).
  std::optional<std::size_t> find(std::string_view name) const;

  /// The same for a column that has to be there. Throws `DataError` with the columns that there are.
  std::size_t column(std::string_view name) const;

  // Here, as each sample's target asks.
  double value(std::int64_t row, std::size_t column) const {
    switch (type) {
      case RowType::kFloat16:
        return static_cast<float>(rows_from<c10::Half>(row)[column]);
      case RowType::kBFloat16:
        return static_cast<float>(rows_from<c10::BFloat16>(row)[column]);
      default:
        return rows_from<float>(row)[column];
    }
  }

  /// First row whose time is not before `time`.
  std::int64_t row_at(std::int64_t time) const;

  /// The rows from time `from` to before time `to`, of the same storage.
  Instrument between(std::int64_t from, std::int64_t to) const;

  /// Where a row begins.
  const void* row_address(std::int64_t row) const;

  /// The same for rows of a type that is known.
  template <typename T>
  const T* rows_from(std::int64_t row) const {
    return static_cast<const T*>(rows) + row * static_cast<std::int64_t>(columns.size());
  }
};

/// Some rows of one instrument: [begin, end).
struct RowRange {
  std::size_t instrument = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end - begin; }
};

/// Time of row `position` of all instruments' rows in the order of time; the largest time there is behind the last.
/// Rows before that time are at most `position`, exactly that many where no two rows share a time. Reads
/// O(log rows) times of each instrument.
std::int64_t time_of_pooled_row(std::span<const Instrument> instruments, std::int64_t position);

/// YYYY-MM-DD in UTC.
std::string date_of(std::int64_t time);

}  // namespace torchfeed::datasets::financial
