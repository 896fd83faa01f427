#pragma once

#include <torchfeed/datasets/column_table.h>
#include <torchfeed/datasets/data_error.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets {

/// What to do with a value that is missing: an empty field, or one of nan, na, n/a, #n/a, <na>, null, none in any case.
enum class MissingValues {
  kError,        ///< `DataError` with file, line and column.
  kDrop,         ///< Leaves the whole row out.
  kForwardFill,  ///< Takes the column's value of the row before; rows before a column's first value are left out. A
                 ///< high that is then below the low is a `DataError`, as `check_prices` has it.
};

/// How times are written. Decimals beyond nanoseconds are cut off.
enum class TimeFormat {
  kAuto,      ///< As the first row's time is: by its form, and for epochs by its magnitude (below 1e10 seconds, 1e14
              ///< milliseconds, 1e17 microseconds, else nanoseconds). Holds for the whole file.
  kDate,      ///< 2010-02-28 or 20100228: midnight in the options' zone.
  kDateTime,  ///< 2010-02-28T09:30:00.123456789Z: with T or a blank, hours and minutes at least, decimals of seconds
              ///< after a point or comma, then Z, +hh:mm, +hhmm, +hh or nothing. A date alone is midnight.
  kEpochSeconds,       ///< Since 1970-01-01 UTC, decimals allowed.
  kEpochMilliseconds,  ///< The same.
  kEpochMicroseconds,  ///< The same.
  kEpochNanoseconds,   ///< The same.
};

/// Options of `CsvReader`. std::invalid_argument, with what was expected and got, for a value out of range.
struct CsvOptions {
  /// Name of the column with the times, in any case. Default: empty, the first of `date`, `time`, `datetime`,
  /// `timestamp` that is there.
  std::string time_column{};  // Braces, as without an initialiser GCC warns where a designated list leaves it out.
  /// Default: `TimeFormat::kAuto`.
  TimeFormat time_format = TimeFormat::kAuto;
  /// Zone of times that are written without one: UTC, or an offset as +05:30. Default: empty, UTC.
  std::string time_zone{};
  /// Names of the columns to read, in any case; others are passed over unread. Default: empty, all columns with a name
  /// whose first value (missing ones apart) in the first 256 KiB is a number, and open, high, low, close and volume
  /// whatever is in them.
  std::vector<std::string> columns{};
  /// Default: `MissingValues::kError`.
  MissingValues missing = MissingValues::kError;
  /// Threads that parse, and do what is given to `CsvReader::async`, the calling one among them. Range: 1 to 256.
  /// Default: 1.
  int threads = 1;
  /// Bytes of text in a block, but for its last line, which is whole. Of bars of about 50 bytes a line, memory is about
  /// 5 * threads times this much, and where they are converted as much again for every ten columns of features; of
  /// shorter lines more. Range: 1 to 1 GiB. Default: 1 MiB.
  std::size_t block_bytes = std::size_t{1} << 20;
  /// Whether open, high, low and close must be above zero, high not below low, volume not below zero, where there are
  /// such columns. Default: true.
  bool check_prices = true;
  /// Between fields; a printable character or tab that no number, name or quote begins with. Default: ','.
  char delimiter = ',';
};

/// Reads the rows of a CSV file (RFC 4180 with the liberties below) in blocks, in memory that does not grow with it.
///
/// The first line that is not empty names the columns, in any order and any case. Lines end in LF or CRLF, the last one
/// may have no end; a UTF-8 byte order mark, empty lines, blanks around a field and quotes around it are accepted. A
/// quoted field ends on its own line. Of a file each thread reads the blocks that it parses; pipes, and what begins as
/// gzip does (whatever its name, members one after the other too), are read as streams. Nothing is mapped: that is no
/// faster, pages of the file would count as the process's memory, and a file that is cut shorter meanwhile would end
/// the program (SIGBUS) where it is a `DataError` now.
///
/// Throws `DataError` at the first fault in the file, the same one whatever the number of threads and size of blocks,
/// with file, line, column, value and what was expected: a file that cannot be read, is a directory, is empty or has a
/// header alone; a gzip stream that is damaged or cut off; a column missing or named twice; a line with another number
/// of fields than the header, longer than 64 KiB, or with control characters; a megabyte of empty lines before the
/// header; a time that does not exist, is out of order, comes twice or lies outside 1677-09-22 to 2262-04-10; text
/// where a number belongs, a number that is not finite or not a double's; a missing value, a price or a volume as the
/// options do not allow it.
///
/// For one thread at a time.
class CsvReader {
 public:
  /// Opens the file and reads its header.
  explicit CsvReader(const std::string& path, const CsvOptions& options = {});
  /// The same for CSV text in memory, which must outlive the reader; `name` stands for the file in messages. Gzip is
  /// not looked for.
  static CsvReader from_text(std::string_view text, const std::string& name, const CsvOptions& options = {});
  /// Stops the threads.
  ~CsvReader();
  CsvReader(CsvReader&&) noexcept;
  CsvReader& operator=(CsvReader&&) noexcept;

  /// Columns that are read, in lower case: those of the options in their order, else in the file's.
  const std::vector<std::string>& columns() const;
  /// The column of the times, in lower case.
  const std::string& time_column() const;
  /// Columns that are passed over, as the file writes them.
  const std::vector<std::string>& skipped_columns() const;

  /// For `MissingValues::kForwardFill`: the values, of each column, of the row at `time` that was read before; NaN for
  /// none. Rows of this file up to that time are not checked where these values fill them.
  void set_last_values(std::vector<double> values, std::int64_t time);

  /// The next rows in the file's order, at least one; none after the last. After an exception there is no more to get.
  std::optional<ColumnTable> next();

  /// Has `work` done by one of the reader's threads, before it parses what is not asked for yet, or by the calling
  /// thread: at once where there is no other, else in `next` and `wait`. Works begin in the order in which they come.
  /// Those that have not begun when the reader ends are dropped. The future has what the work throws.
  std::future<void> async(std::function<void()> work);
  /// Waits for one of them, and does others meanwhile.
  void wait(const std::future<void>& work);

  /// Rows left out, and values filled, so far, as the options' `missing` asks.
  std::uint64_t dropped_rows() const;
  std::uint64_t filled_values() const;

  /// Bytes of the file that have been taken so far; of a gzip file its compressed ones.
  std::uint64_t bytes_read() const;
  /// Size of the file; 0 if it is not known, as of a pipe.
  std::uint64_t bytes_total() const;

 private:
  class Impl;
  explicit CsvReader(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

/// The whole file at once.
ColumnTable read_csv(const std::string& path, const CsvOptions& options = {});

}  // namespace torchfeed::datasets
