#pragma once

#include <torchfeed/datasets/column_table.h>
#include <torchfeed/datasets/features/catalogue.h>
#include <torchfeed/datasets/features/feature.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets::features {

/// Several features with their columns side by side, fed the same bars.
class FeatureSet {
 public:
  /// Throws c10::ValueError for an unknown name, and for a column that comes twice.
  explicit FeatureSet(const std::vector<std::string>& names);

  const std::vector<std::string>& columns() const { return columns_; }
  std::size_t warm_up() const { return warm_up_; }
  std::uint64_t bars() const { return bars_; }

  /// What is wrong with the next `count` bars, for which nothing may be pushed; empty if all is well.
  std::optional<std::string> find_fault(const BarColumns& bars, std::size_t count) const;

  /// Where the columns lie that the features use. Throws DataError for one that is missing or of another length.
  BarColumns columns_of(const ColumnTable& bars) const;

  /// Of bars without a fault: one number a column to `out`.
  void push_bar(const BarColumns& bar, std::span<double> out);

  /// Of bars without a fault: columns with `count` rows.
  std::vector<std::vector<double>> push_columns(const BarColumns& bars, std::size_t count, int threads);

  std::vector<double> state() const;
  /// Of a set that has not been fed. Throws c10::ValueError, after which the set is of no use.
  void load(std::span<const double> state);

 private:
  struct Member {
    NamedFeature named;
    std::string name;
    std::size_t first_column;
  };

  void push_columns_of(Member& member, const BarColumns& bars, std::size_t count,
                       std::vector<std::vector<double>>& columns) noexcept;
  void taken(const BarColumns& bars, std::size_t count);
  double signature() const;

  std::vector<Member> members_;
  std::vector<std::string> columns_;
  ColumnSet inputs_;
  std::size_t warm_up_ = 0;
  std::uint64_t bars_ = 0;
  std::int64_t last_time_ = 0;  // of no meaning before the first bar
};

/// "a, b, c".
std::string joined(const std::vector<std::string>& names);

/// Throws c10::ValueError if a name comes twice.
void check_columns_differ(const std::vector<std::string>& columns);

}  // namespace torchfeed::datasets::features
