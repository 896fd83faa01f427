#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace torchfeed::datasets {

/// Days from 1970-01-01 to `text`, which must be a date of the proleptic Gregorian calendar written as YYYY-MM-DD
/// (ISO 8601, extended form) and nothing else. Empty for any other text and for days that do not exist (2010-02-30).
inline std::optional<int32_t> parse_iso_date(std::string_view text) {
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i != 4 && i != 7 && (text[i] < '0' || text[i] > '9')) return std::nullopt;
  }
  const auto digit = [&](size_t i) { return text[i] - '0'; };
  const std::chrono::year_month_day date{std::chrono::year{digit(0) * 1000 + digit(1) * 100 + digit(2) * 10 + digit(3)},
                                         std::chrono::month{static_cast<unsigned>(digit(5) * 10 + digit(6))},
                                         std::chrono::day{static_cast<unsigned>(digit(8) * 10 + digit(9))}};
  if (!date.ok()) return std::nullopt;
  return static_cast<int32_t>(std::chrono::sys_days{date}.time_since_epoch().count());
}

/// The inverse of `parse_iso_date` for the years 0 to 9999.
inline std::string format_iso_date(int32_t days_since_epoch) {
  const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{days_since_epoch}}};
  const auto padded = [](unsigned value, size_t width) {
    const std::string digits = std::to_string(value);
    return std::string(width > digits.size() ? width - digits.size() : 0, '0') + digits;
  };
  return padded(static_cast<unsigned>(static_cast<int>(date.year())), 4) + '-' +
         padded(static_cast<unsigned>(date.month()), 2) + '-' + padded(static_cast<unsigned>(date.day()), 2);
}

}  // namespace torchfeed::datasets
