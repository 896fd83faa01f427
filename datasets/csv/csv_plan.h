#pragma once

#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/csv/csv_time.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::csv {

/// What must hold for a column's values beside being numbers.
enum class Bounds : std::uint8_t { kNone, kPrice, kVolume };

/// A column that is read.
struct NumberColumn {
  std::string name;   ///< lower case
  std::size_t field;  ///< in a line
  Bounds bounds = Bounds::kNone;
};

/// How the lines of a file are read: options and header, resolved. Shared by all threads, unchanged.
struct CsvPlan {
  char delimiter = ',';
  MissingValues missing = MissingValues::kError;
  std::size_t fields = 0;  ///< in each line
  std::string time_name;   ///< lower case
  std::size_t time_field = 0;
  TimeParser time{TimeFormat::kAuto, 0};   ///< to be copied by each thread
  std::vector<NumberColumn> columns;       ///< in the order in which they are given out
  std::vector<std::size_t> in_file_order;  ///< places in `columns`
  /// Places in `columns` of high and low, where the one must not be below the other.
  std::optional<std::size_t> high, low;
  std::vector<std::string> skipped;  ///< names as the file has them
};

/// Where the rows begin.
struct HeaderEnd {
  std::size_t bytes = 0;    ///< from the start of the text
  std::uint64_t lines = 0;  ///< up to and with the header
};

/// Of the options' time zone, east of UTC; empty if it is none.
std::optional<std::int64_t> zone_seconds(const CsvOptions& options);

/// Throws std::invalid_argument for options out of range.
void check_options(const CsvOptions& options);

/// Reads the header from `sample`, the beginning of a text, and takes from the lines behind it what the options leave
/// to the file. `whole`: there is no more text. Empty if all of the sample is empty lines but there is more. Throws
/// DataError. `options` must have been checked.
struct PlannedCsv {
  CsvPlan plan;
  HeaderEnd header;
};
std::optional<PlannedCsv> plan_csv(std::string_view sample, bool whole, const std::string& name,
                                   const CsvOptions& options);

}  // namespace torchfeed::datasets::csv
