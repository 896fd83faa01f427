#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace torchfeed::datasets::csv {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kDaySeconds = 86400;
constexpr std::int64_t kMostZoneSeconds = 18 * 3600;
// 1677-09-22 and 2262-04-10: with any time of the day and any zone these fit 64 bits of ns.
constexpr std::int64_t kFirstDay = -106751;
constexpr std::int64_t kLastDay = 106750;
constexpr std::size_t kDateLength = 10;
constexpr std::size_t kBasicDateLength = 8;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool all_digits(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_digit); }

// Two digits from `at` on; -1 if there are none.
int two_digits(std::string_view text, std::size_t at) {
  if (at + 2 > text.size() || !is_digit(text[at]) || !is_digit(text[at + 1])) return -1;
  return (text[at] - '0') * 10 + (text[at + 1] - '0');
}

std::optional<std::int32_t> parse_basic_date(std::string_view text) {
  if (text.size() != kBasicDateLength || !all_digits(text)) return std::nullopt;
  std::string extended(text.substr(0, 4));
  (((extended += '-') += text.substr(4, 2)) += '-') += text.substr(6, 2);
  return parse_iso_date(extended);
}

// Digits after a decimal point, in parts of `unit` ns, cut off below 1 ns.
std::int64_t parse_decimals(std::string_view digits, std::int64_t unit) {
  std::int64_t ns = 0;
  for (const char c : digits) {
    unit /= 10;
    ns += unit * (c - '0');
    if (unit == 0) break;
  }
  return ns;
}

std::int64_t unit_of(TimeFormat format) {
  switch (format) {
    case TimeFormat::kEpochMilliseconds:
      return 1'000'000;
    case TimeFormat::kEpochMicroseconds:
      return 1'000;
    case TimeFormat::kEpochNanoseconds:
      return 1;
    default:
      return kSecond;
  }
}

struct EpochText {
  bool negative = false;
  std::string_view whole;
  std::string_view decimals;
};

std::optional<EpochText> split_epoch(std::string_view text) {
  EpochText parts;
  if (text.starts_with('-') || text.starts_with('+')) {
    parts.negative = text[0] == '-';
    text.remove_prefix(1);
  }
  const std::size_t point = std::min(text.find('.'), text.size());
  parts.whole = text.substr(0, point);
  parts.decimals = text.substr(std::min(point + 1, text.size()));
  constexpr std::size_t kMostDigits = 18;
  if (!all_digits(parts.whole) || (point < text.size() && !all_digits(parts.decimals))) return std::nullopt;
  while (parts.whole.size() > 1 && parts.whole[0] == '0') parts.whole.remove_prefix(1);
  // 19 digits as ns are the years 2001 and later.
  if (parts.whole.size() > kMostDigits + 1) return std::nullopt;
  return parts;
}

// Up to 19 digits.
std::uint64_t to_number(std::string_view digits) {
  std::uint64_t number = 0;
  for (const char c : digits) number = number * 10 + static_cast<std::uint64_t>(c - '0');
  return number;
}

}  // namespace

std::optional<std::int64_t> parse_zone(std::string_view text) {
  if (text.size() == 1 && (text[0] == 'Z' || text[0] == 'z')) return 0;
  if (text == "UTC" || text == "utc") return 0;
  if (text.size() < 3 || (text[0] != '+' && text[0] != '-')) return std::nullopt;
  const int hours = two_digits(text, 1);
  int minutes = 0;
  if (text.size() > 3) {
    const std::size_t at = text[3] == ':' ? 4 : 3;
    minutes = two_digits(text, at);
    if (text.size() != at + 2) return std::nullopt;
  }
  const std::int64_t seconds = hours * 3600 + minutes * 60;
  if (hours < 0 || minutes < 0 || minutes > 59 || seconds > kMostZoneSeconds) return std::nullopt;
  return text[0] == '-' ? -seconds : seconds;
}

TimeFormat detect_time_format(std::string_view text) {
  if (const auto days = parse_basic_date(text); days && text >= "19000101" && text < "21000101") {
    return TimeFormat::kDate;  // As seconds these would all be days in 1970.
  }
  if (text.size() > 4 && text[4] == '-') return text.size() == kDateLength ? TimeFormat::kDate : TimeFormat::kDateTime;
  const auto parts = split_epoch(text);
  if (!parts) return TimeFormat::kAuto;
  const std::size_t digits = parts->whole.size();
  if (digits <= 10) return TimeFormat::kEpochSeconds;  // 11 of them are beyond the last year that ns can tell
  if (digits <= 14) return TimeFormat::kEpochMilliseconds;
  return digits <= 17 ? TimeFormat::kEpochMicroseconds : TimeFormat::kEpochNanoseconds;
}

bool TimeParser::parse(std::string_view text, std::int64_t& ns) {
  switch (format_) {
    case TimeFormat::kAuto:
      return false;
    case TimeFormat::kDate: {
      std::int64_t days = 0;
      if (!parse_day(text, days)) return false;
      ns = (days * kDaySeconds - zone_seconds_) * kSecond;
      return true;
    }
    case TimeFormat::kDateTime:
      return parse_date_time(text, ns);
    default:
      return parse_epoch(text, ns);
  }
}

bool TimeParser::parse_day(std::string_view text, std::int64_t& days) {
  if (text.size() == kDateLength && std::memcmp(text.data(), last_day_text_.data(), kDateLength) == 0) {
    days = last_days_;
    return true;
  }
  const auto found = text.size() == kDateLength ? parse_iso_date(text) : parse_basic_date(text);
  if (!found || *found < kFirstDay || *found > kLastDay) return false;
  days = *found;
  if (text.size() == kDateLength) {
    std::copy(text.begin(), text.end(), last_day_text_.begin());
    last_days_ = days;
  }
  return true;
}

bool TimeParser::parse_date_time(std::string_view text, std::int64_t& ns) {
  std::int64_t days = 0;
  if (text.size() < kDateLength || !parse_day(text.substr(0, kDateLength), days)) return false;
  if (text.size() == kDateLength) {
    ns = (days * kDaySeconds - zone_seconds_) * kSecond;
    return true;
  }
  text.remove_prefix(kDateLength);
  if (text[0] != 'T' && text[0] != ' ' && text[0] != 't') return false;
  const int hours = two_digits(text, 1);
  const int minutes = two_digits(text, 4);
  if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || text[3] != ':') return false;
  text.remove_prefix(6);
  int seconds = 0;
  std::int64_t decimals = 0;
  if (text.starts_with(':')) {
    seconds = two_digits(text, 1);
    if (seconds < 0 || seconds > 59) return false;
    text.remove_prefix(3);
    if (text.starts_with('.') || text.starts_with(',')) {
      std::size_t end = 1;
      while (end < text.size() && is_digit(text[end])) ++end;
      if (end == 1) return false;
      decimals = parse_decimals(text.substr(1, end - 1), kSecond);
      text.remove_prefix(end);
    }
  }
  std::int64_t zone = zone_seconds_;
  if (text.starts_with(' ')) text.remove_prefix(1);
  if (!text.empty()) {
    const auto written = parse_zone(text);
    if (!written) return false;
    zone = *written;
  }
  ns = (days * kDaySeconds + hours * 3600 + minutes * 60 + seconds - zone) * kSecond + decimals;
  return true;
}

bool TimeParser::parse_epoch(std::string_view text, std::int64_t& ns) const {
  const auto parts = split_epoch(text);
  if (!parts) return false;
  const std::int64_t unit = unit_of(format_);
  const std::uint64_t whole = to_number(parts->whole);
  if (whole > static_cast<std::uint64_t>(kLastDay * kDaySeconds * (kSecond / unit))) return false;
  const std::int64_t magnitude = static_cast<std::int64_t>(whole) * unit + parse_decimals(parts->decimals, unit);
  ns = parts->negative ? -magnitude : magnitude;
  return true;
}

std::string TimeParser::expected() const {
  switch (format_) {
    case TimeFormat::kAuto:
      return "a time as 2010-02-28, 2010-02-28T09:30:00Z or 1267349400";
    case TimeFormat::kDate:
      return "a date that exists, as YYYY-MM-DD";
    case TimeFormat::kDateTime:
      return "a date and time that exist, as 2010-02-28T09:30:00Z";
    case TimeFormat::kEpochSeconds:
      return "seconds since 1970-01-01";
    case TimeFormat::kEpochMilliseconds:
      return "milliseconds since 1970-01-01";
    case TimeFormat::kEpochMicroseconds:
      return "microseconds since 1970-01-01";
    case TimeFormat::kEpochNanoseconds:
      return "nanoseconds since 1970-01-01";
  }
  return "a time";
}

std::string TimeParser::format(std::int64_t ns) const {
  switch (format_) {
    case TimeFormat::kDate:
      return format_time(ns + zone_seconds_ * kSecond, /*date_alone=*/true);
    case TimeFormat::kAuto:
    case TimeFormat::kDateTime:
      return format_time(ns);
    default: {
      const std::int64_t unit = unit_of(format_);
      if (ns % unit != 0) return format_time(ns);
      return std::to_string(ns / unit);
    }
  }
}

std::string format_time(std::int64_t ns, bool date_alone) {
  constexpr std::int64_t kDay = kDaySeconds * kSecond;
  const std::int64_t days = ns / kDay - (ns % kDay < 0 ? 1 : 0);
  const std::int64_t rest = ns - days * kDay;
  std::string text = format_iso_date(static_cast<std::int32_t>(days));
  if (date_alone && rest == 0) return text;
  const auto seconds = static_cast<int>(rest / kSecond);
  std::array<char, 40> time{};
  std::snprintf(time.data(), time.size(), "T%02d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
  text += time.data();
  if (rest % kSecond != 0) {
    std::snprintf(time.data(), time.size(), ".%09d", static_cast<int>(rest % kSecond));
    std::string decimals = time.data();
    decimals.erase(decimals.find_last_not_of('0') + 1);
    text += decimals;
  }
  return text + 'Z';
}

}  // namespace torchfeed::datasets::csv
