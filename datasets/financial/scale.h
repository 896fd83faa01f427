#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/row_statistics.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace torchfeed::datasets::financial {

/// What fits numbers: value -> (value - centre) / spread.
struct Scale {
  double centre = 0;
  double spread = 1;
};

/// A scale as it is applied, to features and targets alike, so that a target that is a feature's value in another row
/// is the same number: (value - centre) * (1 / spread), all in float32.
struct AppliedScale {
  explicit AppliedScale(const Scale& scale = {})
      : centre(static_cast<float>(scale.centre)), factor(static_cast<float>(1 / scale.spread)) {}

  float operator()(double value) const { return (static_cast<float>(value) - centre) * factor; }

  float centre;
  float factor;
};

/// Moments of so many numbers, to which others can be added.
struct CountedMoments {
  std::int64_t count = 0;
  Moments moments;

  void add(const CountedMoments& other);
  /// Mean and population deviation. Numbers that do not vary keep a spread of 1, as their deviation is a rounding
  /// error, which must not be blown up to the size of a signal.
  Scale scale() const;
};

/// Moments of plain numbers.
CountedMoments moments_of(std::span<const double> values);

/// Which columns are meant, instrument by instrument: [instruments][C] places.
using ColumnPlaces = std::vector<std::vector<std::size_t>>;

/// Mean and population deviation of each column over all rows of the ranges. Whole blocks come from the stored
/// statistics, so that fewer than 2 * kStatisticsBlock rows a range are read.
std::vector<Scale> fit_standard(std::span<const Instrument> instruments, std::span<const RowRange> ranges,
                                const ColumnPlaces& columns);

/// Median of each column and its interquartile range over 1.349, which is the deviation of normal numbers; where that
/// range is 0, the deviation; where that is 0 too, 1. Of 2^20 rows at most,
/// `sample_of(ranges, 4096)`.
std::vector<Scale> fit_robust(std::span<const Instrument> instruments, std::span<const RowRange> ranges,
                              const ColumnPlaces& columns);

/// 256 stretches of `rows` rows at equal distances, the first at the begin of the ranges and the last at their end,
/// always the same for the same ranges; all of their rows, if they are no more than that.
std::vector<RowRange> sample_of(std::span<const RowRange> ranges, std::int64_t rows);

/// Asks the kernel for all of the rows [begin, end) at once where they are mapped: a page at a time, as for windows in
/// any order, takes a disk many times as long.
void read_ahead(const Instrument& instrument, std::int64_t begin, std::int64_t end);

}  // namespace torchfeed::datasets::financial
