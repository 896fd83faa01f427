#include <torchfeed/datasets/csv/csv_line.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace torchfeed::datasets::csv {
namespace {

constexpr std::size_t kMaxShownBytes = 40;
constexpr std::array<std::string_view, 7> kMissing = {"nan", "na", "n/a", "#n/a", "<na>", "null", "none"};

bool equal_in_any_case(std::string_view text, std::string_view lower_case) {
  return text.size() == lower_case.size() &&
         std::equal(text.begin(), text.end(), lower_case.begin(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b; });
}

}  // namespace

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

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool is_missing(std::string_view text) {
  if (text.empty()) return true;
  return std::any_of(kMissing.begin(), kMissing.end(), [&](auto word) { return equal_in_any_case(text, word); });
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

void check_line(std::string_view line, bool cut) {
  if (line.size() > kMaxLineBytes) {
    throw LineFault{"expected lines of at most " + std::to_string(kMaxLineBytes) + " bytes, got " +
                    (cut ? "more than " : "") + std::to_string(line.size()) + " (is this a CSV file?)"};
  }
  const auto bad = std::find_if(line.begin(), line.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 && c != '\t';
  });
  if (bad != line.end()) {
    throw LineFault{"expected text, got the byte " + shown(std::string_view(&*bad, 1)) + " (is this a CSV file?)"};
  }
}

const std::vector<std::string_view>& LineSplitter::split(std::string_view line) {
  fields_.clear();
  std::size_t begin = 0;
  while (true) {
    std::size_t end = std::min(line.find(delimiter_, begin), line.size());
    std::string_view text = trim(line.substr(begin, end - begin));
    if (text.starts_with('"')) {
      const std::size_t open = line.find('"', begin);
      const std::size_t close = closing_quote(line, open);
      end = std::min(line.find(delimiter_, close), line.size());
      if (!trim(line.substr(close + 1, end - close - 1)).empty()) {
        throw LineFault{"field " + std::to_string(fields_.size() + 1) + ": expected a " +
                        (delimiter_ == ',' ? "comma" : "delimiter") + " after the closing quote, got " +
                        shown(line.substr(close + 1, end - close - 1))};
      }
      text = trim(line.substr(open + 1, close - open - 1));
    }
    fields_.push_back(text);
    if (end == line.size()) return fields_;
    begin = end + 1;
  }
}

std::string_view LineSplitter::trim(std::string_view text) const {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

// A doubled quote inside stands for a quote and does not close.
std::size_t LineSplitter::closing_quote(std::string_view line, std::size_t open) const {
  std::size_t close = line.find('"', open + 1);
  while (close != std::string_view::npos && close + 1 < line.size() && line[close + 1] == '"') {
    close = line.find('"', close + 2);
  }
  if (close == std::string_view::npos) {
    throw LineFault{"field " + std::to_string(fields_.size() + 1) + ": expected a closing quote, got " +
                    shown(line.substr(open))};
  }
  return close;
}

}  // namespace torchfeed::datasets::csv
