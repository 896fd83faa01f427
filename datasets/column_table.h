#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets {

/// Named columns of one length, oldest bar first.
struct ColumnTable {
  /// ns since 1970-01-01 UTC, ascending, none twice.
  std::vector<std::int64_t> times;
  /// Of `values`; those of a file are in lower case.
  std::vector<std::string> names;
  /// values[column][row]. What a reader gives is finite; features are NaN in their warm-up.
  std::vector<std::vector<double>> values;

  /// Rows.
  std::size_t size() const { return times.size(); }

  /// The place of the column `name` in `values`.
  std::optional<std::size_t> find(std::string_view name) const {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) return std::nullopt;
    return static_cast<std::size_t>(found - names.begin());
  }
};

}  // namespace torchfeed::datasets
