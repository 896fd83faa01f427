#include <torchfeed/datasets/features/calendar_indicators.h>
#include <torchfeed/datasets/features/catalogue.h>
#include <torchfeed/datasets/features/price_indicators.h>
#include <torchfeed/datasets/features/range_indicators.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

namespace torchfeed::datasets::features {
namespace {

using Made = std::unique_ptr<Feature>;
using Numbers = std::span<const double>;

/// A family of features: names that start alike and differ in their numbers.
struct Family {
  std::string_view name;
  std::string_view numbers;  ///< as the list of features shows them: "_FAST_SLOW_SIGNAL"
  std::size_t least;         ///< numbers that must follow the name, and that may
  std::size_t most;
  std::vector<std::string_view> suffixes;  ///< of the columns, an output each
  Made (*make)(Numbers numbers);
};

template <typename Indicator>
Made wrap(Indicator indicator) {
  return std::make_unique<FeatureOf<Indicator>>(std::move(indicator));
}

template <typename Indicator>
Made plain(Numbers /*numbers*/) {
  return wrap(Indicator());
}

/// A number of bars that the indicator then checks; one that is not whole is out of every range.
int whole(double number) {
  const bool fits = number == std::floor(number) && number <= std::numeric_limits<int>::max();
  return fits ? static_cast<int>(number) : 0;
}

template <typename Indicator>
Made of_bars(Numbers numbers) {
  return wrap(Indicator(numbers.empty() ? 1 : whole(numbers[0])));
}

template <typename Indicator>
Made of_three(Numbers numbers) {
  return wrap(Indicator(whole(numbers[0]), whole(numbers[1]), whole(numbers[2])));
}

Made make_bollinger(Numbers numbers) { return wrap(BollingerBands(whole(numbers[0]), numbers[1])); }

const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies{
      {"return", "[_N]", 0, 1, {""}, of_bars<SimpleReturn>},
      {"log_return", "[_N]", 0, 1, {""}, of_bars<LogReturn>},
      {"log_range", "", 0, 0, {""}, plain<LogRange>},
      {"log_volume_change", "", 0, 0, {""}, plain<LogVolumeChange>},
      {"log_close_open", "", 0, 0, {""}, plain<LogCloseOpen>},
      {"sma", "_N", 1, 1, {""}, of_bars<SimpleAverage>},
      {"ema", "_N", 1, 1, {""}, of_bars<ExponentialAverage>},
      {"rsi", "_N", 1, 1, {""}, of_bars<RelativeStrength>},
      {"macd", "_FAST_SLOW_SIGNAL", 3, 3, {"", "_signal", "_histogram"}, of_three<AverageConvergence>},
      {"bollinger", "_N_K", 2, 2, {"_upper", "_middle", "_lower", "_bandwidth", "_percent_b"}, make_bollinger},
      {"atr", "_N", 1, 1, {""}, of_bars<AverageTrueRange>},
      {"obv", "", 0, 0, {""}, plain<OnBalanceVolume>},
      {"vwap", "_N", 1, 1, {""}, of_bars<VolumeWeightedPrice>},
      {"stochastic", "_N_K_D", 3, 3, {"_k", "_d"}, of_three<StochasticOscillator>},
      {"volatility", "_N", 1, 1, {""}, of_bars<Volatility>},
      {"zscore", "_N", 1, 1, {""}, of_bars<StandardScore>},
      {"day_of_week", "", 0, 0, {"_sin", "_cos"}, plain<DayOfWeek>},
      {"month", "", 0, 0, {"_sin", "_cos"}, plain<MonthOfYear>},
      {"hour_of_day", "", 0, 0, {"_sin", "_cos"}, plain<HourOfDay>},
      {"open", "", 0, 0, {""}, plain<PassThrough<kOpen>>},
      {"high", "", 0, 0, {""}, plain<PassThrough<kHigh>>},
      {"low", "", 0, 0, {""}, plain<PassThrough<kLow>>},
      {"close", "", 0, 0, {""}, plain<PassThrough<kClose>>},
      {"volume", "", 0, 0, {""}, plain<PassThrough<kVolume>>},
  };
  return kFamilies;
}

/// Takes "_" and a number such as 20 or 2.5 off the front of `text`.
std::optional<double> take_number(std::string_view& text) {
  if (text.size() < 2 || text[0] != '_') return std::nullopt;
  const std::string_view digits = text.substr(1, text.find('_', 1) - 1);
  if (digits.find_first_not_of("0123456789.") != std::string_view::npos) return std::nullopt;
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (end != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  if (error == std::errc::result_out_of_range) number = std::numeric_limits<double>::max();
  text.remove_prefix(1 + digits.size());
  return number;
}

/// `name` as one of a family, if it is.
NamedFeature make_of(const Family& family, const std::string& name) {
  if (!name.starts_with(family.name)) return {};
  std::string_view rest = std::string_view(name).substr(family.name.size());
  std::vector<double> numbers;
  while (numbers.size() < family.most) {
    const auto number = take_number(rest);
    if (!number) break;
    numbers.push_back(*number);
  }
  const auto known = std::find(family.suffixes.begin(), family.suffixes.end(), rest);
  if (numbers.size() < family.least || (!rest.empty() && known == family.suffixes.end())) return {};

  NamedFeature made;
  made.feature = family.make(numbers);
  for (std::size_t output = 0; output < family.suffixes.size(); ++output) {
    if (!rest.empty() && family.suffixes[output] != rest) continue;
    made.columns.push_back(rest.empty() ? name + std::string(family.suffixes[output]) : name);
    made.outputs.push_back(output);
  }
  return made;
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

NamedFeature make_feature(std::string_view name) {
  const std::string lower = lower_case(name);
  for (const Family& family : families()) {
    NamedFeature made = make_of(family, lower);
    if (made.feature) return made;
  }
  return {};
}

const std::string& list_of_features() {
  static const std::string kList = [] {
    std::string list;
    for (const Family& family : families()) {
      if (!list.empty()) list += ", ";
      list.append(family.name).append(family.numbers);
    }
    return list;
  }();
  return kList;
}

}  // namespace torchfeed::datasets::features
