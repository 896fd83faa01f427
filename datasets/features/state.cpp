#include <torchfeed/datasets/features/state.h>

#include <c10/util/Exception.h>

#include <cmath>

namespace torchfeed::datasets::features {

double StateReader::next() {
  TORCH_CHECK_VALUE(read_ < values_.size(), "load_state: expected more than ", values_.size(),
                    " numbers: the state of other features");
  const double value = values_[read_++];
  TORCH_CHECK_VALUE(std::isfinite(value), "load_state: expected finite numbers, got ", value, " at ", read_ - 1);
  return value;
}

void StateReader::index(std::size_t& value, std::size_t end) {
  const double number = next();
  TORCH_CHECK_VALUE(number >= 0 && number < static_cast<double>(end) && number == std::floor(number),
                    "load_state: expected a whole number from 0 to ", end - 1, ", got ", number, " at ", read_ - 1);
  value = static_cast<std::size_t>(number);
}

void StateReader::flag(bool& value) {
  std::size_t number = 0;
  index(number, 2);
  value = number == 1;
}

void StateReader::finish() const {
  TORCH_CHECK_VALUE(read_ == values_.size(), "load_state: expected ", read_, " numbers, got ", values_.size(),
                    ": the state of other features");
}

}  // namespace torchfeed::datasets::features
