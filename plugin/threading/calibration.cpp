#include <torchfeed/plugin/threading/calibration.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace torchfeed::threading {
namespace {

constexpr size_t kRoundsBeforeGivingUp = 3;
constexpr double kHopeless = 0.9;
/// That a calibration takes chance for a gain.
constexpr double kChance = 0.05;

/// The value a share of the way from the least to the most, between neighbours in proportion.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

/// In each round the default over the candidate: one run of each, so that without any difference either is as likely to
/// be the faster. The mean of two runs is not: where some runs take long, it is above the median, and a candidate beats
/// it more often than not.
std::vector<double> gains_of(const CalibrationRounds& rounds, size_t candidate) {
  std::vector<double> gains;
  const std::vector<double>& seconds = rounds.candidates[candidate];
  for (size_t round = 0; round < seconds.size(); ++round)
    gains.push_back((round % 2 == 0 ? rounds.first : rounds.second)[round] / seconds[round]);
  return gains;
}

/// The chance that a coin shows heads `least` times or more in `count`.
double chance_of(size_t count, size_t least) {
  const auto n = static_cast<double>(count);
  double sum = 0;
  for (size_t heads = least; heads <= count; ++heads) {
    const auto k = static_cast<double>(heads);
    sum += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) - n * std::log(2.0));
  }
  return sum;
}

/// A step that takes so many times the default's, and that much more, is not worth waiting for again: the second lets
/// threads start (some 35 ms where there is other work) and caches fill, and a CPU quota stall the process for most of
/// its period of 100 ms.
constexpr double kFarSlower = 2;
constexpr double kFarSlowerSeconds = 0.12;

bool hopeless(const CalibrationRounds& rounds, size_t candidate) {
  if (rounds.abandoned[candidate]) return true;
  return rounds.candidates[candidate].size() >= kRoundsBeforeGivingUp && gain_of(rounds, candidate).median < kHopeless;
}

/// The longest that a candidate's step may take, from the default's median so far; none before it was measured.
double longest_step(const CalibrationRounds& rounds, double of_this_round) {
  if (rounds.first.empty() && of_this_round == 0) return std::numeric_limits<double>::infinity();
  const double usual = rounds.first.empty() ? of_this_round : summarise(rounds.first).median;
  return kFarSlower * usual + kFarSlowerSeconds;
}

/// One round's seconds by the places of `settings`, measured in the order of `places`; nothing where time is over.
/// Candidates that are abandoned are noted in `rounds`.
std::optional<std::vector<double>> measure_round(CalibrationRounds& rounds, const std::vector<size_t>& settings,
                                                 const std::vector<size_t>& places, double end,
                                                 const Measure& measure) {
  std::vector<double> seconds(settings.size());
  for (const size_t place : places) {
    const size_t setting = settings[place];
    StepLimits limits;
    limits.end = end;
    if (setting != 0) limits.longest = longest_step(rounds, seconds[0]);
    const auto measured = measure(setting, limits);
    if (!measured) return std::nullopt;
    seconds[place] = *measured;
    if (*measured > limits.longest) rounds.abandoned[setting - 1] = true;
  }
  return seconds;
}

}  // namespace

size_t least_rounds(size_t candidates) {
  size_t rounds = kLeastRounds;
  while (std::ldexp(static_cast<double>(candidates), -static_cast<int>(rounds)) >= kChance) ++rounds;
  return rounds;
}

bool all_given_up(const CalibrationRounds& rounds) {
  for (size_t candidate = 0; candidate < rounds.candidates.size(); ++candidate)
    if (!hopeless(rounds, candidate)) return false;
  return true;
}

CalibrationRounds measure_rounds(size_t candidates, double budget, const Measure& measure,
                                 const std::function<double()>& now) {
  CalibrationRounds rounds;
  rounds.candidates.resize(candidates);
  rounds.abandoned.resize(candidates);
  const double end = now() + budget;
  std::mt19937 generator;  // unseeded: the same order in every run
  while (now() < end && !(all_given_up(rounds) && !rounds.first.empty())) {
    std::vector<size_t> settings{0, 0};
    for (size_t candidate = 0; candidate < candidates; ++candidate)
      if (!hopeless(rounds, candidate)) settings.push_back(1 + candidate);
    std::vector<size_t> places(settings.size());
    std::iota(places.begin(), places.end(), size_t{0});
    // The default goes first once, so that there is something to compare with.
    if (!rounds.first.empty()) std::shuffle(places.begin(), places.end(), generator);
    const auto seconds = measure_round(rounds, settings, places, end, measure);
    if (!seconds) break;
    rounds.first.push_back((*seconds)[0]);
    rounds.second.push_back((*seconds)[1]);
    for (size_t i = 2; i < settings.size(); ++i) rounds.candidates[settings[i] - 1].push_back((*seconds)[i]);
  }
  return rounds;
}

Gain summarise(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)};
}

Gain gain_of(const CalibrationRounds& rounds, size_t candidate) {
  std::vector<double> gains = gains_of(rounds, candidate);
  return gains.empty() ? Gain{} : summarise(std::move(gains));
}

double noise_of(const CalibrationRounds& rounds) {
  std::vector<double> ratios;
  for (size_t round = 0; round < rounds.first.size(); ++round)
    ratios.push_back(rounds.first[round] / rounds.second[round]);
  return ratios.empty() ? 0 : std::abs(summarise(std::move(ratios)).median - 1);
}

std::optional<size_t> choose(const CalibrationRounds& rounds, double least_gain) {
  std::optional<size_t> best;
  const size_t count = rounds.first.size();
  if (count < least_rounds(rounds.candidates.size())) return best;
  const double threshold = 1 + std::max(least_gain, noise_of(rounds));
  for (size_t candidate = 0; candidate < rounds.candidates.size(); ++candidate) {
    if (rounds.candidates[candidate].size() < count) continue;  // given up
    const std::vector<double> gains = gains_of(rounds, candidate);
    const auto faster = static_cast<size_t>(std::count_if(gains.begin(), gains.end(), [](double g) { return g > 1; }));
    const double chance = chance_of(count, faster) * static_cast<double>(rounds.candidates.size());
    const double gain = gain_of(rounds, candidate).median;
    if (gain <= threshold || chance >= kChance) continue;
    if (!best || gain > gain_of(rounds, *best).median) best = candidate;
  }
  return best;
}

}  // namespace torchfeed::threading
