#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::csv {

inline constexpr std::size_t kMaxLineBytes = 65536;

/// What is wrong in a line; thrown inside the reader, which knows the file and the line's number.
struct LineFault {
  std::string message;
  /// Where the message goes on with the number of an earlier line, and then `rest`. Counted as the line itself.
  std::optional<std::uint64_t> earlier_line{};
  std::string rest{};
};

/// `text` in quotes, fit for one line of a terminal: cut to a length, other than printable ASCII as \xNN.
std::string shown(std::string_view text);

/// ASCII letters in lower case.
std::string lower(std::string_view text);

/// Whether a field says that its value is missing: see `MissingValues`.
bool is_missing(std::string_view text);

/// Takes the next line off `text`, without its end (LF or CRLF).
std::string_view take_line(std::string_view& text);

/// Throws LineFault at what is no CSV (archives, images, pages) before its bytes are taken for fields. `cut`: the line
/// is longer than what is here.
void check_line(std::string_view line, bool cut = false);

/// Cuts lines into fields, without the blanks and quotes around them. One thread.
class LineSplitter {
 public:
  explicit LineSplitter(char delimiter) : delimiter_(delimiter) {}

  /// Valid until the next call. A doubled quote inside quotes stays as it is. Throws LineFault for quotes that do not
  /// close or close too early.
  const std::vector<std::string_view>& split(std::string_view line);

 private:
  bool is_blank(char c) const { return (c == ' ' || c == '\t') && c != delimiter_; }
  std::string_view trim(std::string_view text) const;
  std::size_t closing_quote(std::string_view line, std::size_t open) const;

  char delimiter_;
  std::vector<std::string_view> fields_;
};

}  // namespace torchfeed::datasets::csv
