#include <torchfeed/datasets/features/parameters.h>

#include <c10/util/Exception.h>

namespace torchfeed::datasets::features {

std::size_t checked_bars(const char* feature, const char* parameter, int bars) {
  TORCH_CHECK_VALUE(bars >= 1 && bars <= kMostBars, feature, ": ", parameter, ": expected a whole number from 1 to ",
                    kMostBars, ", got ", bars);
  return static_cast<std::size_t>(bars);
}

void check_order(const char* feature, int fast, int slow) {
  TORCH_CHECK_VALUE(fast < slow, feature, ": fast: expected a number below slow, ", slow, ", got ", fast);
}

double checked_deviations(const char* feature, double deviations) {
  TORCH_CHECK_VALUE(deviations > 0 && deviations <= 1000, feature,
                    ": deviations: expected a number above 0, up to 1000, got ", deviations);
  return deviations;
}

}  // namespace torchfeed::datasets::features
