#pragma once

#include <torchfeed/datasets/convert_csv.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::convert {

/// What the command line says.
struct Options {
  std::vector<std::string> inputs;
  std::string folder;
  std::int64_t workers = -1;
  bool quiet = false;
  datasets::ConvertOptions convert;  ///< of each file
};

/// None where help was asked for and printed. Throws program::InputError for what cannot be.
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace torchfeed::convert
