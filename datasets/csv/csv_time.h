#pragma once

#include <torchfeed/datasets/csv/csv_reader.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace torchfeed::datasets::csv {

/// Seconds east of UTC of "UTC", "Z", "+hh:mm", "+hhmm" or "+hh" up to 18 hours either way; empty for other text.
std::optional<std::int64_t> parse_zone(std::string_view text);

/// What `TimeFormat::kAuto` takes `text` for; kAuto if it is no time that is known.
TimeFormat detect_time_format(std::string_view text);

/// Reads times of one format. One thread each, as it remembers the day that it has read last.
class TimeParser {
 public:
  /// `zone_seconds`: of times without a zone. With kAuto no text is a time.
  TimeParser(TimeFormat format, std::int64_t zone_seconds) : format_(format), zone_seconds_(zone_seconds) {}

  /// Whether `text` is a time and nothing else; `ns` is then set to ns since 1970-01-01 UTC.
  bool parse(std::string_view text, std::int64_t& ns);

  bool is_date() const { return format_ == TimeFormat::kDate; }
  /// For messages: what `parse` expects, after "expected".
  std::string expected() const;
  /// A time as the file would write it, for messages.
  std::string format(std::int64_t ns) const;

 private:
  bool parse_day(std::string_view text, std::int64_t& days);
  bool parse_date_time(std::string_view text, std::int64_t& ns);
  bool parse_epoch(std::string_view text, std::int64_t& ns) const;

  TimeFormat format_;
  std::int64_t zone_seconds_;
  // Bars of a day come one after the other.
  std::array<char, 10> last_day_text_{'1', '9', '7', '0', '-', '0', '1', '-', '0', '1'};
  std::int64_t last_days_ = 0;
};

/// 2010-02-28T09:30:00Z, with decimals of seconds where there are any; the date alone where it is midnight and `date`.
std::string format_time(std::int64_t ns, bool date_alone = false);

}  // namespace torchfeed::datasets::csv
