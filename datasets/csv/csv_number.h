#pragma once

#include <string_view>

namespace torchfeed::datasets::csv {

enum class NumberFault {
  kNone,
  kNoNumber,   ///< other text
  kTooLarge,   ///< outside a double's range, or so close to zero that it would become zero
  kNotFinite,  ///< inf or nan
};

/// Reads a number that is the whole of `text`, to the nearest double: decimal, with or without exponent, a plus sign
/// allowed. Knows no locale.
NumberFault parse_number(std::string_view text, double& value);

/// The same for the number that begins at `begin`, but several times as fast, and for plain cases alone: where it
/// finds none it gives nullptr, which says nothing; else the end of the number, behind which there may be anything.
const char* parse_plain_number(const char* begin, const char* end, double& value);

}  // namespace torchfeed::datasets::csv
