#include <torchfeed/datasets/financial/scale.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace torchfeed::datasets::financial {
namespace {

constexpr std::int64_t kStretches = 256;
/// Rows of a stretch that quantiles are taken of, so 2^20 in all.
constexpr std::int64_t kQuantileStretch = 4096;

// Interquartile range of a normal distribution over its deviation: twice the upper quartile of the standard one.
constexpr double kNormalInterquartileRange = 1.3489795003921634;

// Equal numbers leave a deviation of the rounding of a block's sum. In whatever unit: the least is that by which
// float32 can be divided.
bool is_variation(double spread, double centre) {
  return spread > std::max(1e-10 * std::abs(centre), double{std::numeric_limits<float>::min()});
}

/// Moments of some columns in [begin, end), read from the rows.
std::vector<CountedMoments> read_moments(const Instrument& instrument, std::int64_t begin, std::int64_t end,
                                         const std::vector<std::size_t>& columns) {
  std::vector<CountedMoments> all(columns.size());
  if (begin >= end) return all;
  read_ahead(instrument, begin, end);
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::size_t c = 0; c < columns.size(); ++c) all[c].moments.mean += instrument.value(row, columns[c]);
  }
  for (auto& each : all) {
    each.count = end - begin;
    each.moments.mean /= static_cast<double>(each.count);
  }
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const double deviation = instrument.value(row, columns[c]) - all[c].moments.mean;
      all[c].moments.squares += deviation * deviation;
    }
  }
  return all;
}

void add_all(std::vector<CountedMoments>& to, const std::vector<CountedMoments>& moments) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c].add(moments[c]);
}

/// Adds the moments of a range: from rows up to the first whole block, from blocks, from rows behind the last.
void add_range(const Instrument& instrument, const RowRange& range, const std::vector<std::size_t>& columns,
               std::vector<CountedMoments>& moments) {
  const std::int64_t first = instrument.first_row + range.begin;
  const std::int64_t last = instrument.first_row + range.end;
  const std::int64_t first_block = (first + kStatisticsBlock - 1) / kStatisticsBlock;
  // A last block of fewer rows is whole where the range reaches its end.
  const bool to_the_end = last == instrument.rows_in_blocks;
  const std::int64_t end_block = (last + (to_the_end ? kStatisticsBlock - 1 : 0)) / kStatisticsBlock;
  if (first_block >= end_block) {
    add_all(moments, read_moments(instrument, range.begin, range.end, columns));
    return;
  }
  const auto row_of = [&](std::int64_t block) { return block * kStatisticsBlock - instrument.first_row; };
  add_all(moments, read_moments(instrument, range.begin, row_of(first_block), columns));
  for (std::int64_t block = first_block; block < end_block; ++block) {
    const std::int64_t rows = std::min(kStatisticsBlock, instrument.rows_in_blocks - block * kStatisticsBlock);
    const double* stored = instrument.statistics + block * 2 * static_cast<std::int64_t>(instrument.columns.size());
    for (std::size_t c = 0; c < columns.size(); ++c) {
      moments[c].add({rows, {stored[2 * columns[c]], stored[2 * columns[c] + 1]}});
    }
  }
  add_all(moments, read_moments(instrument, std::min(row_of(end_block), range.end), range.end, columns));
}

// As NumPy's quantile: between the two numbers beside the place, by its distance to each. Reorders the values.
double quantile(std::vector<double>& values, double share) {
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = values.begin() + static_cast<std::ptrdiff_t>(place);
  std::nth_element(values.begin(), below, values.end());
  const double low = *below;
  const double part = place - std::floor(place);
  if (part == 0) return low;
  return low + part * (*std::min_element(below + 1, values.end()) - low);
}

}  // namespace

void read_ahead(const Instrument& instrument, std::int64_t begin, std::int64_t end) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(instrument.row_address(begin)) / page * page;
  const auto last = reinterpret_cast<std::uintptr_t>(instrument.row_address(end));
  // Its failure changes no result, and it does nothing for rows in memory.
  ::madvise(reinterpret_cast<void*>(first), last - first, MADV_WILLNEED);
}

void CountedMoments::add(const CountedMoments& other) {
  moments = combine(moments, count, other.moments, other.count);
  count += other.count;
}

Scale CountedMoments::scale() const {
  const double deviation = count > 0 ? std::sqrt(moments.squares / static_cast<double>(count)) : 0;
  return {moments.mean, is_variation(deviation, moments.mean) ? deviation : 1.0};
}

CountedMoments moments_of(std::span<const double> values) {
  CountedMoments result{static_cast<std::int64_t>(values.size()), {}};
  if (values.empty()) return result;
  auto& [mean, squares] = result.moments;
  for (const double value : values) mean += value;
  mean /= static_cast<double>(values.size());
  for (const double value : values) squares += (value - mean) * (value - mean);
  return result;
}

std::vector<Scale> fit_standard(std::span<const Instrument> instruments, std::span<const RowRange> ranges,
                                const ColumnPlaces& columns) {
  std::vector<CountedMoments> moments(columns.empty() ? 0 : columns.front().size());
  for (const auto& range : ranges) {
    add_range(instruments[range.instrument], range, columns[range.instrument], moments);
  }
  std::vector<Scale> scales;
  for (const auto& each : moments) scales.push_back(each.scale());
  return scales;
}

std::vector<Scale> fit_robust(std::span<const Instrument> instruments, std::span<const RowRange> ranges,
                              const ColumnPlaces& columns) {
  const auto sample = sample_of(ranges, kQuantileStretch);
  std::vector<Scale> scales;
  std::vector<double> values;
  for (std::size_t c = 0; c < (columns.empty() ? 0 : columns.front().size()); ++c) {
    values.clear();
    for (const auto& range : sample) {
      const std::size_t column = columns[range.instrument][c];
      read_ahead(instruments[range.instrument], range.begin, range.end);
      for (std::int64_t row = range.begin; row < range.end; ++row) {
        values.push_back(instruments[range.instrument].value(row, column));
      }
    }
    Scale scale = moments_of(values).scale();
    // Numbers that are none have no order; the mean has told of them.
    if (!values.empty() && std::isfinite(scale.centre)) {
      scale.centre = quantile(values, 0.5);
      const double range = quantile(values, 0.75) - quantile(values, 0.25);
      if (is_variation(range, scale.centre)) scale.spread = range / kNormalInterquartileRange;
    }
    scales.push_back(scale);
  }
  return scales;
}

std::vector<RowRange> sample_of(std::span<const RowRange> ranges, std::int64_t rows) {
  std::int64_t total = 0;
  for (const auto& range : ranges) total += range.size();
  std::vector<RowRange> sample;
  if (total <= kStretches * rows) {
    sample.assign(ranges.begin(), ranges.end());
    return sample;
  }
  std::int64_t before = 0;  // rows of the ranges before this one
  std::int64_t stretch = 0;
  for (const auto& range : ranges) {
    // A stretch that crosses into the next range goes on there.
    while (stretch < kStretches) {
      // Exact: below 2^63 for any number of rows below 2^54.
      const std::int64_t begin = stretch * ((total - rows) / (kStretches - 1)) +
                                 stretch * ((total - rows) % (kStretches - 1)) / (kStretches - 1);
      const std::int64_t from = std::max(begin, before);
      const std::int64_t to = std::min(begin + rows, before + range.size());
      if (from < to) sample.push_back({range.instrument, range.begin + from - before, range.begin + to - before});
      if (begin + rows > before + range.size()) break;
      ++stretch;
    }
    before += range.size();
  }
  return sample;
}

}  // namespace torchfeed::datasets::financial
