#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace torchfeed::bench {

/// What a run is beside an earlier one.
struct BaselineComparison {
  std::vector<std::string> notes;   ///< what makes the two less alike, a sentence each
  std::vector<std::string> slower;  ///< rows, a sentence each
  std::vector<std::string> faster;
  std::size_t compared = 0;
};

/// Compares two reports row by row. A row is slower (or faster) if each of its repeats is slower than each of the other
/// run's, and the median by more than 5 %, as two runs meet the machine in two moods. Limits are not compared: they
/// tell of the machine.
/// Throws std::invalid_argument if there is nothing to compare: rows count that both have, with three repeats or more.
BaselineComparison compare_with_baseline(const nlohmann::json& baseline, const nlohmann::json& now);

}  // namespace torchfeed::bench
