#pragma once

#include <torchfeed/datasets/features/feature.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace torchfeed::datasets::features {

// Where a bar's time lies in the week, the year and the day, defined in features.h.

using Time = std::chrono::sys_time<std::chrono::nanoseconds>;

/// Sine and cosine of the angle of `position` on a circle of length `around`.
inline std::array<double, 2> on_circle(double position, double around) {
  const double angle = 2 * std::numbers::pi * (position / around);
  return {std::sin(angle), std::cos(angle)};
}

/// Those of all whole positions.
template <std::size_t kAround>
std::array<std::array<double, 2>, kAround> make_circle() {
  std::array<std::array<double, 2>, kAround> points;
  for (std::size_t i = 0; i < kAround; ++i) points[i] = on_circle(static_cast<double>(i), kAround);
  return points;
}

/// A calendar feature has no memory.
template <std::array<double, 2> (*kPoint)(Time)>
struct Calendar {
  using Inputs = features::Inputs<kTime>;
  static constexpr std::size_t kOutputs = 2;

  static std::size_t warm_up() { return 0; }
  static std::array<double, 2> push(std::int64_t time) { return kPoint(Time(std::chrono::nanoseconds(time))); }
  template <typename State>
  void visit(State& /*state*/) {}
};

inline std::array<double, 2> week_point(Time time) {
  static const auto kCircle = make_circle<7>();
  const std::chrono::weekday day(std::chrono::floor<std::chrono::days>(time));
  return kCircle[day.iso_encoding() - 1];
}

inline std::array<double, 2> year_point(Time time) {
  static const auto kCircle = make_circle<12>();
  const std::chrono::year_month_day date(std::chrono::floor<std::chrono::days>(time));
  return kCircle[static_cast<unsigned>(date.month()) - 1];
}

inline std::array<double, 2> day_point(Time time) {
  const auto of_day = time - std::chrono::floor<std::chrono::days>(time);
  return on_circle(static_cast<double>(of_day.count()), std::chrono::nanoseconds(std::chrono::days(1)).count());
}

using DayOfWeek = Calendar<week_point>;
using MonthOfYear = Calendar<year_point>;
using HourOfDay = Calendar<day_point>;

}  // namespace torchfeed::datasets::features
