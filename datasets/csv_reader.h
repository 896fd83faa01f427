#pragma once

#include <torchfeed/datasets/data_error.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets {

/// Bars of one instrument, a column a vector, all of one length, in ascending order of date.
///
/// What a reader puts here holds: prices are finite and above zero, high >= low, volume is finite and not negative,
/// no date comes twice. Open and close may lie outside [low, high]: vendors round and adjust the columns one by one.
struct PriceTable {
  std::vector<int32_t> date;  ///< Days since 1970-01-01.
  std::vector<double> open, high, low, close;
  std::vector<double> volume;

  size_t size() const { return date.size(); }
};

/// Reads daily bars from a CSV file as `CsvReader` does, all at once: `date` (YYYY-MM-DD), `open`, `high`, `low`,
/// `close` and `volume` must be among its columns; others are passed over unread.
///
/// Throws `DataError` at the first fault, with file, line, column, value and what was expected. Safe to call from any
/// thread.
PriceTable read_prices(const std::string& path);

/// The same for CSV text in memory; `name` stands for the file in messages.
PriceTable parse_prices(std::string_view text, const std::string& name);

}  // namespace torchfeed::datasets
