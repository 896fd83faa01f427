#include <torchfeed/datasets/csv_reader.h>
#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>

namespace torchfeed::datasets {
namespace {

constexpr size_t kMaxLineBytes = 65536;
constexpr size_t kMaxShownBytes = 40;
constexpr size_t kMaxShownColumns = 16;

enum Column : size_t { kDate, kOpen, kHigh, kLow, kClose, kVolume, kColumns };
constexpr std::array<std::string_view, kColumns> kColumnNames = {"date", "open", "high", "low", "close", "volume"};

// `text` in quotes, fit for one line of a terminal: cut to a length, other than printable ASCII as \xNN.
std::string shown(std::string_view text) {
  if (text.empty()) return "an empty field";
  std::string out = "'";
  for (const unsigned char byte : text.substr(0, kMaxShownBytes)) {
    if (byte >= 0x20 && byte < 0x7f) {
      out += static_cast<char>(byte);
    } else {
      std::array<char, 5> escaped{};
      std::snprintf(escaped.data(), escaped.size(), "\\x%02x", byte);
      out += escaped.data();
    }
  }
  return out + (text.size() > kMaxShownBytes ? "...'" : "'");
}

bool is_blank(char c) { return c == ' ' || c == '\t'; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

/// One pass over a CSV text, line by line.
class PriceParser {
 public:
  PriceParser(std::string_view text, const std::string& name) : rest_(text), name_(name) {}

  PriceTable parse() {
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
    if (!next_line()) throw DataError(name_ + ": expected a header line, got an empty file");
    read_header();
    while (next_line()) read_row();
    if (table_.date.empty()) throw DataError(name_ + ": expected bars after the header line, got none");
    return std::move(table_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw DataError(name_ + ':' + std::to_string(line_number_) + ": " + message);
  }

  [[noreturn]] void fail(Column column, const std::string& expected) const {
    fail("column '" + std::string(kColumnNames[column]) + "': expected " + expected + ", got " + shown(field(column)));
  }

  std::string_view field(Column column) const { return fields_[position_[column]]; }

  // Takes the next line that is not empty, without its end, and cuts it into fields_. False at the end of the text.
  bool next_line() {
    while (!rest_.empty()) {
      const size_t end = std::min(rest_.find('\n'), rest_.size());
      std::string_view line = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++line_number_;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty()) continue;
      check_line(line);
      split(line);
      return true;
    }
    return false;
  }

  // Stops at what is no CSV (archives, images, pages) before its bytes are taken for fields.
  void check_line(std::string_view line) const {
    if (line.size() > kMaxLineBytes) {
      fail("expected lines of at most " + std::to_string(kMaxLineBytes) + " bytes, got " + std::to_string(line.size()) +
           " (is this a CSV file?)");
    }
    const auto bad = std::find_if(line.begin(), line.end(), [](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return byte < 0x20 && c != '\t';
    });
    if (bad != line.end()) {
      fail("expected text, got the byte " + shown(std::string_view(&*bad, 1)) + " (is this a CSV file?)");
    }
  }

  void split(std::string_view line) {
    fields_.clear();
    size_t begin = 0;
    while (true) {
      size_t end = std::min(line.find(',', begin), line.size());
      std::string_view text = trim(line.substr(begin, end - begin));
      if (text.starts_with('"')) {
        const size_t open = line.find('"', begin);
        const size_t close = closing_quote(line, open);
        end = std::min(line.find(',', close), line.size());
        if (!trim(line.substr(close + 1, end - close - 1)).empty()) {
          fail("field " + std::to_string(fields_.size() + 1) + ": expected a comma after the closing quote, got " +
               shown(line.substr(close + 1, end - close - 1)));
        }
        text = trim(line.substr(open + 1, close - open - 1));
      }
      fields_.push_back(text);
      if (end == line.size()) return;
      begin = end + 1;
    }
  }

  // A doubled quote inside stands for a quote and does not close.
  size_t closing_quote(std::string_view line, size_t open) const {
    size_t close = line.find('"', open + 1);
    while (close != std::string_view::npos && close + 1 < line.size() && line[close + 1] == '"') {
      close = line.find('"', close + 2);
    }
    if (close == std::string_view::npos) {
      fail("field " + std::to_string(fields_.size() + 1) + ": expected a closing quote, got " +
           shown(line.substr(open)));
    }
    return close;
  }

  void read_header() {
    header_fields_ = fields_.size();
    std::string missing;
    for (size_t column = 0; column < kColumns; ++column) {
      std::optional<size_t> found;
      for (size_t i = 0; i < fields_.size(); ++i) {
        if (lower(fields_[i]) != kColumnNames[column]) continue;
        if (found) {
          fail("expected each column once, got '" + std::string(kColumnNames[column]) + "' as fields " +
               std::to_string(*found + 1) + " and " + std::to_string(i + 1));
        }
        found = i;
      }
      if (!found) missing += (missing.empty() ? "'" : ", '") + std::string(kColumnNames[column]) + "'";
      position_[column] = found.value_or(0);
    }
    if (missing.empty()) return;
    std::string got;
    for (size_t i = 0; i < std::min(fields_.size(), kMaxShownColumns); ++i) {
      got += (i == 0 ? "" : ", ") + shown(fields_[i]);
    }
    if (fields_.size() > kMaxShownColumns) got += " and " + std::to_string(fields_.size() - kMaxShownColumns) + " more";
    fail("expected a header with the columns " + missing + " too, got " + got);
  }

  void read_row() {
    if (fields_.size() != header_fields_) {
      fail("expected " + std::to_string(header_fields_) + " fields as in the header, got " +
           std::to_string(fields_.size()) + (fields_.size() < header_fields_ ? " (is the line cut off?)" : ""));
    }
    const int32_t date = read_date();
    const double open = read_price(kOpen);
    const double high = read_price(kHigh);
    const double low = read_price(kLow);
    const double close = read_price(kClose);
    const double volume = read_number(kVolume);
    if (high < low) fail(kHigh, "a high not below the low " + shown(field(kLow)));
    if (volume < 0) fail(kVolume, "a volume of 0 or more");
    table_.date.push_back(date);
    table_.open.push_back(open);
    table_.high.push_back(high);
    table_.low.push_back(low);
    table_.close.push_back(close);
    table_.volume.push_back(volume);
    last_row_line_ = line_number_;
  }

  int32_t read_date() const {
    const auto date = parse_iso_date(field(kDate));
    if (!date) fail(kDate, "a date that exists, as YYYY-MM-DD");
    if (!table_.date.empty() && *date <= table_.date.back()) {
      fail(kDate, "a date after " + format_iso_date(table_.date.back()) + " of line " + std::to_string(last_row_line_));
    }
    return *date;
  }

  double read_price(Column column) const {
    const double value = read_number(column);
    if (value <= 0) fail(column, "a price above 0");
    return value;
  }

  // from_chars and not strtod: it is exact, knows no locale, and is several times as fast.
  double read_number(Column column) const {
    std::string_view text = field(column);
    if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::invalid_argument || end != text.data() + text.size()) fail(column, "a number");
    if (error != std::errc{}) fail(column, "a number that a double can hold");
    if (!std::isfinite(value)) fail(column, "a finite number");
    return value;
  }

  std::string_view rest_;
  const std::string& name_;
  size_t line_number_ = 0;
  size_t last_row_line_ = 0;
  size_t header_fields_ = 0;
  std::array<size_t, kColumns> position_{};
  std::vector<std::string_view> fields_;
  PriceTable table_;
};

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Reads to the end instead of asking for a size, so that pipes (`<(zcat prices.csv.gz)`) serve as well.
std::string read_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw DataError(path + ": expected a CSV file, got a directory");
  }
  const auto failure = [&path] {
    return DataError(path + ": expected a readable CSV file, got: " + std::generic_category().message(errno));
  };
  const std::unique_ptr<std::FILE, FileCloser> file(std::fopen(path.c_str(), "rbe"));
  if (!file) throw failure();
  std::string text;
  constexpr size_t kChunk = 1 << 20;
  size_t used = 0;
  while (true) {
    text.resize(used + kChunk);
    const size_t got = std::fread(text.data() + used, 1, kChunk, file.get());
    used += got;
    if (got < kChunk) break;
  }
  if (std::ferror(file.get())) throw failure();
  text.resize(used);
  return text;
}

}  // namespace

PriceTable read_prices(const std::string& path) { return parse_prices(read_file(path), path); }

PriceTable parse_prices(std::string_view text, const std::string& name) { return PriceParser(text, name).parse(); }

}  // namespace torchfeed::datasets
