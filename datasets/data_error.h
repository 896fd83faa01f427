#pragma once

#include <stdexcept>

namespace torchfeed {

/// A file of data that cannot be used. `what()` is one line that gives the file, then the line, the column and the
/// value where there are such, what was expected and what was found:
/// `prices.csv:17: column 'close': expected a number, got 'n/a'`.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace torchfeed
