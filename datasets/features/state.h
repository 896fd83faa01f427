#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace torchfeed::datasets::features {

/// Lists what an indicator remembers, as numbers. An indicator's `visit` names its parts in one order for both.
class StateWriter {
 public:
  void number(double value) { values_.push_back(value); }
  void numbers(const std::vector<double>& values) { values_.insert(values_.end(), values.begin(), values.end()); }
  void index(std::size_t value, std::size_t /*end*/) { number(static_cast<double>(value)); }
  void flag(bool value) { number(value ? 1 : 0); }

  std::vector<double> take() { return std::move(values_); }

 private:
  std::vector<double> values_;
};

/// Puts it back. Throws c10::ValueError for what no writer has written: a number missing or left over, one that is not
/// finite, an index that is none.
class StateReader {
 public:
  explicit StateReader(std::span<const double> values) : values_(values) {}

  void number(double& value) { value = next(); }
  void numbers(std::vector<double>& values) {
    for (double& value : values) value = next();
  }
  /// A whole number in [0, end).
  void index(std::size_t& value, std::size_t end);
  void flag(bool& value);
  void finish() const;

 private:
  double next();

  std::span<const double> values_;
  std::size_t read_ = 0;
};

}  // namespace torchfeed::datasets::features
