#include <torchfeed/datasets/csv/csv_block.h>
#include <torchfeed/datasets/csv/csv_number.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace torchfeed::datasets::csv {
namespace {

constexpr int kSkip = -1;
constexpr int kTime = -2;

[[noreturn]] void fail(const std::string& column, const std::string& expected, std::string_view text) {
  throw LineFault{"column '" + column + "': expected " + expected + ", got " + shown(text)};
}

// Behind a field that is passed over, if it is plain text; else nullptr.
const char* skip_plain(const char* p, const char* end, char delimiter) {
  for (; p != end && *p != delimiter; ++p) {
    if (static_cast<unsigned char>(*p) < 0x20 || *p == '"') return nullptr;
  }
  return p;
}

}  // namespace

LineFault order_fault(const CsvPlan& plan, const LineTime& before, std::string_view text) {
  const auto time = plan.time.format(before.time);
  const bool date = plan.time.is_date();
  return {"column '" + plan.time_name + "': expected a " + (date ? "date" : "time") + " after " + time + " of line ",
          before.line, ", got " + shown(text)};
}

BlockParser::BlockParser(const CsvPlan& plan, bool careful)
    : plan_(plan),
      careful_(careful),
      time_(plan.time),
      splitter_(plan.delimiter),
      use_(plan.fields, kSkip),
      out_(plan.columns.size()),
      values_(plan.columns.size()) {
  use_[plan.time_field] = kTime;
  for (std::size_t c = 0; c < plan.columns.size(); ++c) use_[plan.columns[c].field] = static_cast<int>(c);
}

ParsedBlock BlockParser::parse(std::string_view text, bool cut) {
  begin_block(text);
  const bool ends = text.ends_with('\n');
  try {
    for (; !text.empty(); ++line_) {
      const std::string_view line = take_line(text);
      if (line.empty()) continue;
      if (!careful_ && line.size() <= kMaxLineBytes && read_plain(line.data(), line.data() + line.size())) {
        keep_row();
      } else {
        read_careful(line, cut);
      }
    }
  } catch (LineFault& fault) {
    block_.fault = BlockFault{line_, std::move(fault)};
  }
  block_.lines = line_ - (ends || line_ == 0 ? 0 : 1);
  usual_rows_ = rows_ + rows_ / 16;
  block_.times.resize(rows_);
  for (auto& column : block_.values) column.resize(rows_);
  return std::exchange(block_, {});
}

// A row has a byte a field at least, and the line's end.
void BlockParser::begin_block(std::string_view text) {
  block_ = {};
  block_.values.resize(plan_.columns.size());
  line_ = 0;
  rows_ = 0;
  room_ = 0;
  most_ = text.size() / plan_.fields + 1;
}

// By the rows that there were, here and in the block before: a block of line ends makes no large columns.
void BlockParser::make_room() {
  constexpr std::size_t kLeastRows = 64;
  room_ = std::min(most_, std::max({kLeastRows, room_ * 2, usual_rows_}));
  block_.times.resize(room_);
  for (std::size_t c = 0; c < plan_.columns.size(); ++c) {
    block_.values[c].resize(room_);
    out_[c] = block_.values[c].data();
  }
}

// Whether [begin, end) is a row with nothing special; what it holds is then in time_value_ and values_.
bool BlockParser::read_plain(const char* begin, const char* end) {
  const char* p = begin;
  const char* time_end = nullptr;
  std::string_view time_text;
  for (std::size_t field = 0; field < plan_.fields; ++field) {
    if (field > 0) {
      if (p == end || *p != plan_.delimiter) return false;
      ++p;
    }
    const int use = use_[field];
    if (use >= 0) {
      p = parse_plain_number(p, end, values_[static_cast<std::size_t>(use)]);
    } else if (use == kTime) {
      time_end = static_cast<const char*>(std::memchr(p, plan_.delimiter, static_cast<std::size_t>(end - p)));
      if (time_end == nullptr) time_end = end;
      time_text = {p, static_cast<std::size_t>(time_end - p)};
      p = time_.parse(time_text, time_value_) ? time_end : nullptr;
    } else {
      p = skip_plain(p, end, plan_.delimiter);
    }
    if (p == nullptr) return false;
  }
  const bool good = p == end && in_bounds() && (!block_.last || time_value_ > block_.last->time);
  if (good) note_time(time_text);
  return good;
}

bool BlockParser::in_bounds() const {
  for (std::size_t c = 0; c < values_.size(); ++c) {
    const Bounds bounds = plan_.columns[c].bounds;
    if (bounds == Bounds::kPrice && !(values_[c] > 0)) return false;
    if (bounds == Bounds::kVolume && !(values_[c] >= 0)) return false;
  }
  return !plan_.high || !plan_.low || values_[*plan_.high] >= values_[*plan_.low];
}

// Any line. Keeps its row, or not; throws LineFault.
void BlockParser::read_careful(std::string_view line, bool cut) {
  check_line(line, cut);
  const auto& fields = splitter_.split(line);
  if (fields.size() != plan_.fields) {
    throw LineFault{"expected " + std::to_string(plan_.fields) + " fields as in the header, got " +
                    std::to_string(fields.size()) + (fields.size() < plan_.fields ? " (is the line cut off?)" : "")};
  }
  const auto time_text = fields[plan_.time_field];
  if (plan_.missing == MissingValues::kDrop && is_missing(time_text)) {
    ++block_.dropped;
    return;
  }
  if (!time_.parse(time_text, time_value_)) fail(plan_.time_name, time_.expected(), time_text);
  const auto before = block_.last;
  note_time(time_text);
  if (before && time_value_ <= before->time) throw order_fault(plan_, *before, time_text);
  bool holes = false;
  for (const std::size_t c : plan_.in_file_order) {
    const auto& column = plan_.columns[c];
    values_[c] = read_number(column, fields[column.field]);
    holes = holes || std::isnan(values_[c]);
  }
  check_high(fields);
  if (holes && plan_.missing == MissingValues::kDrop) {
    ++block_.dropped;
    return;
  }
  if (holes) block_.hole_lines.push_back(line_);
  keep_row();
}

// NaN where the value is missing and that is no fault.
double BlockParser::read_number(const NumberColumn& column, std::string_view text) const {
  if (plan_.missing != MissingValues::kError && is_missing(text)) return std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  switch (parse_number(text, value)) {
    case NumberFault::kNoNumber:
      fail(column.name, "a number", text);
    case NumberFault::kTooLarge:
      fail(column.name, "a number that a double can hold", text);
    case NumberFault::kNotFinite:
      fail(column.name, "a finite number", text);
    case NumberFault::kNone:
      break;
  }
  if (column.bounds == Bounds::kPrice && value <= 0) fail(column.name, "a price above 0", text);
  if (column.bounds == Bounds::kVolume && value < 0) fail(column.name, "a volume of 0 or more", text);
  return value;
}

void BlockParser::check_high(const std::vector<std::string_view>& fields) const {
  if (!plan_.high || !plan_.low || !(values_[*plan_.high] < values_[*plan_.low])) return;
  const auto& high = plan_.columns[*plan_.high];
  fail(high.name, "a high not below the low " + shown(fields[plan_.columns[*plan_.low].field]), fields[high.field]);
}

void BlockParser::note_time(std::string_view text) {
  block_.last = LineTime{time_value_, line_};
  if (!block_.first) {
    block_.first = block_.last;
    block_.first_text = text;
  }
}

void BlockParser::keep_row() {
  if (rows_ == room_) make_room();
  block_.times[rows_] = time_value_;
  for (std::size_t c = 0; c < values_.size(); ++c) out_[c][rows_] = values_[c];
  ++rows_;
}

}  // namespace torchfeed::datasets::csv
