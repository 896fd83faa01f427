#pragma once

#include <torchfeed/plugin/compare/loader_figures.h>
#include <torchfeed/plugin/compare/loader_run.h>
#include <torchfeed/plugin/compare/measured_loader.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace torchfeed::compare {

/// One of the loaders to compare.
struct Candidate {
  std::string name;
  /// Makes its dataset; called for each repeat.
  std::function<std::unique_ptr<MeasuredLoader>()> make;
  RunPlan plan;
  /// Of equally fast ones the one with the least is the best.
  double effort = 0;
  bool competes = true;  ///< whether it may be the best
};

/// Runs all of them `repeats` times, one after the other, so that whatever else the machine does meets all. An
/// exception ends its candidate's runs, and is in its figures. `told` is called after each run.
std::vector<LoaderFigures> compare(const std::vector<Candidate>& candidates, int repeats,
                                   const std::function<void()>& told = nullptr);

/// The figures as a table with a line for each, under a heading, for a fixed-width font.
std::string table_of(const std::vector<const LoaderFigures*>& rows);

}  // namespace torchfeed::compare
