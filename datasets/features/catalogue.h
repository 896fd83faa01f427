#pragma once

#include <torchfeed/datasets/features/feature.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::features {

/// A feature that somebody asked for by name.
struct NamedFeature {
  std::unique_ptr<Feature> feature;
  std::vector<std::string> columns;  ///< one an output that is asked for
  std::vector<std::size_t> outputs;  ///< which these are
};

/// The feature of that name, in any case, as the table in streaming_features.h has them; one without a feature where
/// there is none of that name. Throws c10::ValueError if there is, but a parameter is out of range.
NamedFeature make_feature(std::string_view name);

/// The names with their parameters, parted by commas.
const std::string& list_of_features();

std::string lower_case(std::string_view text);

}  // namespace torchfeed::datasets::features
