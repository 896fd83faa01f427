#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace torchfeed::threading {

/// With fewer rounds than these nothing is decided.
inline constexpr size_t kLeastRounds = 7;

/// With so many candidates: in fewer rounds none could stand out from chance.
size_t least_rounds(size_t candidates);

/// What rounds of measuring gave: in each, the default twice and then the candidates, so that whatever else the machine
/// does meets all of them.
struct CalibrationRounds {
  /// Seconds of the default in each round: first and second time.
  std::vector<double> first;
  std::vector<double> second;
  /// By candidate and round. A candidate that was given up has fewer rounds than the default.
  std::vector<std::vector<double>> candidates;
  /// By candidate: whether a step took so long that it was given up at once.
  std::vector<bool> abandoned;
};

/// What a measurement has to keep to.
struct StepLimits {
  /// Seconds: a step that takes longer ends the measurement, and is its result.
  double longest = std::numeric_limits<double>::infinity();
  /// By the clock: no step begins after it.
  double end = std::numeric_limits<double>::infinity();
};

/// Seconds of one step under a setting, 0: the default, 1 + i: candidate i; nothing where the time was over first.
using Measure = std::function<std::optional<double>(size_t setting, const StepLimits& limits)>;

/// Measures in rounds until `budget` seconds have gone by on `now`, a clock in seconds. The order within a round is
/// another in each round, so that nobody always follows the same other, and the same in each calibration. A candidate
/// with a step far slower than the default's (over twice its time, and 120 ms: threads start, and a CPU quota stalls)
/// is given up at once, one that is slower by a tenth in the median of three rounds then, so that the time goes to the
/// others. Ends before the budget where the default is left alone. A round that the budget cuts off does not count:
/// there may be none.
CalibrationRounds measure_rounds(size_t candidates, double budget, const Measure& measure,
                                 const std::function<double()>& now);

/// What the default costs over what a candidate costs, above 1 where it is faster: the median over the rounds, and the
/// lower and upper quartile.
struct Gain {
  double median = 0;
  double low = 0;
  double high = 0;
};

/// Of values that are not empty.
Gain summarise(std::vector<double> values);

/// In each of its rounds the default over the candidate: the default's first run in one round, its second in the next.
Gain gain_of(const CalibrationRounds& rounds, size_t candidate);

/// The distance from 1 of what the default gains over itself, in the median: what the machine gives for nothing.
double noise_of(const CalibrationRounds& rounds);

/// Whether no candidate is in the running any more.
bool all_given_up(const CalibrationRounds& rounds);

/// The candidate with the largest median gain, of those that were measured in all rounds, least_rounds() of them, and
///   - gain more than `least_gain` and more than the noise in the median, and
///   - are faster in so many rounds that among as many candidates without any gain, one would be by chance in fewer
///     than one of 20 calibrations (a sign test over the rounds, with Bonferroni's correction). That holds whatever the
///     noise is like, as each round compares one run with one.
/// None: the default stays. A pure function.
std::optional<size_t> choose(const CalibrationRounds& rounds, double least_gain);

}  // namespace torchfeed::threading
