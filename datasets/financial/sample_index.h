#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial_options.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace torchfeed::datasets::financial {

/// Times at which parts end: rows before a part's end and not before its begin are its.
struct Cuts {
  std::int64_t train_begin = 0;
  std::int64_t train_end = 0;
  std::int64_t validation_end = 0;
  std::int64_t test_end = 0;
};

/// A sample: the window of rows before `row` and the target of the rows from `row` on.
struct SamplePlace {
  std::size_t instrument = 0;
  std::int64_t row = 0;
};

/// The samples of a view, numbered instrument by instrument in the order of time. Any thread may read.
class SampleIndex {
 public:
  explicit SampleIndex(std::int64_t stride) : stride_(stride) {}

  /// Adds samples behind those there are: rows first, first + stride, ... before `end`.
  void add(std::size_t instrument, std::int64_t first, std::int64_t end) {
    if (first >= end) return;
    segments_.push_back({instrument, first});
    size_ += static_cast<std::size_t>((end - first + stride_ - 1) / stride_);
    ends_.push_back(size_);
  }

  std::size_t size() const { return size_; }

  /// The first and the last sample of each instrument that has any.
  std::vector<std::pair<SamplePlace, SamplePlace>> first_and_last() const {
    std::vector<std::pair<SamplePlace, SamplePlace>> ends;
    for (std::size_t i = 0; i < segments_.size(); ++i) ends.emplace_back(segments_[i], (*this)[ends_[i] - 1]);
    return ends;
  }

  /// `i` must be below size().
  SamplePlace operator[](std::size_t i) const {
    std::size_t segment = 0;
    if (ends_.size() > 1) {
      segment = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
      if (segment > 0) i -= ends_[segment - 1];
    }
    const SamplePlace& first = segments_[segment];
    return {first.instrument, first.row + static_cast<std::int64_t>(i) * stride_};
  }

 private:
  std::int64_t stride_;
  std::vector<SamplePlace> segments_;  // first samples
  std::vector<std::size_t> ends_;      // numbers of samples up to the end of each segment
  std::size_t size_ = 0;
};

/// Rows of all instruments between two times; none for an instrument without.
std::vector<RowRange> rows_between(std::span<const Instrument> instruments, std::int64_t from, std::int64_t to);

/// The samples of a part, or of everything up to cuts.test_end. Of both, samples' targets lie whole within it.
SampleIndex index_samples(std::span<const Instrument> instruments, const FinancialOptions& options, const Cuts& cuts,
                          std::optional<Split> part);

}  // namespace torchfeed::datasets::financial
