#pragma once

#include <torchfeed/datasets/csv/csv_line.h>
#include <torchfeed/datasets/csv/csv_plan.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::csv {

/// A time and the line that it is from, the block's first being 0.
struct LineTime {
  std::int64_t time = 0;
  std::uint64_t line = 0;
};

struct BlockFault {
  std::uint64_t line = 0;
  LineFault fault;
};

/// The rows of a block of lines, up to the first fault.
struct ParsedBlock {
  std::vector<std::int64_t> times;
  std::vector<std::vector<double>> values;  ///< of the plan's columns; NaN where a value is missing and to be filled
  std::vector<std::uint64_t> hole_lines;    ///< lines, the block's first being 0, of the rows that have such a NaN
  std::uint64_t lines = 0;                  ///< ends of lines in the block, if it has no fault
  std::uint64_t dropped = 0;                ///< rows left out
  /// The first and the last time that was read, even if its row was dropped or has a fault behind it.
  std::optional<LineTime> first, last;
  std::string first_text;  ///< the first as the file writes it
  std::optional<BlockFault> fault;
};

/// The fault of a time, written as `text`, that is not after `before`. The fault's earlier line is before's.
LineFault order_fault(const CsvPlan& plan, const LineTime& before, std::string_view text);

/// Parses blocks of lines, each without a look at any other. One thread each.
class BlockParser {
 public:
  /// `plan` must outlive this. `careful`: every line goes the way of lines that are not plain; for tests, as both ways
  /// have to come to the same.
  explicit BlockParser(const CsvPlan& plan, bool careful = false);

  /// `text` begins at the begin of a line. `cut`: its only line is longer than what is here.
  ParsedBlock parse(std::string_view text, bool cut = false);

 private:
  void begin_block(std::string_view text);
  void make_room();
  bool read_plain(const char* begin, const char* end);
  bool in_bounds() const;
  void read_careful(std::string_view line, bool cut);
  double read_number(const NumberColumn& column, std::string_view text) const;
  void check_high(const std::vector<std::string_view>& fields) const;
  void note_time(std::string_view text);
  void keep_row();

  const CsvPlan& plan_;
  bool careful_;
  TimeParser time_;
  LineSplitter splitter_;
  std::size_t usual_rows_ = 0;  // of a block
  std::vector<int> use_;  // of each field: a place in the plan's columns, or one of the constants in the source file

  // Of the block.
  ParsedBlock block_;
  std::vector<double*> out_;  // each column's values
  std::size_t rows_ = 0;
  std::size_t room_ = 0;  // for rows
  std::size_t most_ = 0;  // rows that the text can have
  // Of the line.
  std::uint64_t line_ = 0;
  std::int64_t time_value_ = 0;
  std::vector<double> values_;  // of each column
};

}  // namespace torchfeed::datasets::csv
