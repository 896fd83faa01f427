#include <torchfeed/datasets/csv/csv_number.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#ifdef TORCHFEED_HAS_FAST_FLOAT
#include <fast_float/fast_float.h>
#endif

namespace torchfeed::datasets::csv {
namespace {

// Versions of fast_float differ in what they say of numbers beyond a double's range, and round them to 0 or infinity.
bool is_plain(const char* begin, const char* end, double value) {
  const double magnitude = std::abs(value);
  if (magnitude >= std::numeric_limits<double>::min()) return magnitude <= std::numeric_limits<double>::max();
  // Zeros, not something small that was rounded to zero. NaN comes here, too, and has other letters.
  constexpr std::ptrdiff_t kMostZeros = 40;
  return value == 0 && end - begin <= kMostZeros &&
         std::all_of(begin, end, [](char c) { return c == '0' || c == '.' || c == '-'; });
}

}  // namespace

// from_chars and not strtod: it is exact, knows no locale, and is several times as fast.
NumberFault parse_number(std::string_view text, double& value) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  const char* const all = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), all, value);
  if (error == std::errc::invalid_argument || end != all) return NumberFault::kNoNumber;
  if (error != std::errc{}) return NumberFault::kTooLarge;
  return std::isfinite(value) ? NumberFault::kNone : NumberFault::kNotFinite;
}

const char* parse_plain_number(const char* begin, const char* end, double& value) {
#ifdef TORCHFEED_HAS_FAST_FLOAT
  const auto [behind, error] = fast_float::from_chars(begin, end, value);
#else
  const auto [behind, error] = std::from_chars(begin, end, value);
#endif
  return error == std::errc{} && is_plain(begin, behind, value) ? behind : nullptr;
}

}  // namespace torchfeed::datasets::csv
