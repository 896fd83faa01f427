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

/// Reads daily bars from a CSV file (RFC 4180 with the liberties below).
///
/// The first line names the columns, in any order and any case. `date` (YYYY-MM-DD), `open`, `high`, `low`, `close`
/// and `volume` must be among them; others are passed over unread. Lines end in LF or CRLF, the last one may have no
/// end; a UTF-8 byte order mark, empty lines, blanks around a field and quotes around it are accepted. A quoted field
/// ends on its own line.
///
/// Throws `DataError` at the first fault, with file, line, column, value and what was expected: a file that cannot be
/// read, is a directory, is empty or has a header alone; a column missing or named twice; a line with another number
/// of fields than the header, longer than 64 KiB, or with control characters; a date that does not exist, is out of
/// order or comes twice; text where a number belongs, a number not finite, a price not above zero, a negative volume,
/// high below low. Safe to call from any thread.
PriceTable read_prices(const std::string& path);

/// The same for CSV text in memory; `name` stands for the file in messages.
PriceTable parse_prices(std::string_view text, const std::string& name);

}  // namespace torchfeed::datasets
