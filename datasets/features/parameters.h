#pragma once

#include <cstddef>

namespace torchfeed::datasets::features {

/// Longest window: what a table of names may make a program allocate.
inline constexpr int kMostBars = 1'000'000;

/// `bars` as a length. Throws c10::ValueError naming `feature` and `parameter` unless it is in [1, kMostBars].
std::size_t checked_bars(const char* feature, const char* parameter, int bars);

/// Throws c10::ValueError unless fast < slow.
void check_order(const char* feature, int fast, int slow);

/// Throws c10::ValueError unless `deviations` is above 0 and at most 1,000.
double checked_deviations(const char* feature, double deviations);

}  // namespace torchfeed::datasets::features
