#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace torchfeed::datasets {

/// Rows in a block of `RowStatistics`.
inline constexpr std::int64_t kStatisticsBlock = 65536;

/// Mean and sum of squared deviations of some numbers.
struct Moments {
  double mean = 0;
  double squares = 0;
};

/// Those of two sets of numbers together (Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for
/// Computing Sample Variances"). An empty set may be among them.
Moments combine(const Moments& a, std::int64_t a_count, const Moments& b, std::int64_t b_count);

/// Means and sums of squared deviations of the columns of float32 rows, block by block of `kStatisticsBlock` rows, so
/// that scales can be fitted to any leading part of the rows without reading all of them again.
///
/// Computed one row after the other (Welford 1962, "Note on a Method for Calculating Corrected Sums of Squares and
/// Products"), so that it does not matter in which portions rows come. For one thread at a time.
class RowStatistics {
 public:
  explicit RowStatistics(std::size_t columns);
  /// Goes on after `rows` rows, whose blocks these are: as `blocks()` gave them.
  RowStatistics(std::size_t columns, std::int64_t rows, std::vector<double> blocks);

  /// Whole rows, C numbers each, all finite.
  void add(std::span<const float> rows);

  std::int64_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }

  /// [ceil(rows / kStatisticsBlock), C, 2]: mean and sum of squared deviations.
  const std::vector<double>& blocks() const { return blocks_; }
  /// Of column `c` over the first `rows` rows of whole blocks, or over all rows. `rows` must be one of these.
  Moments of_leading(std::size_t c, std::int64_t rows) const;

 private:
  std::size_t columns_;
  std::int64_t rows_ = 0;
  std::vector<double> blocks_;
};

}  // namespace torchfeed::datasets
