#include <torchfeed/datasets/financial/sample_index.h>

namespace torchfeed::datasets::financial {
namespace {

/// What a part asks of its targets' rows.
struct Part {
  std::int64_t from;
  std::int64_t to;
  /// Rows at its begin that are no target's first.
  std::int64_t embargo;
  /// Rows at its end that are no target's first.
  std::int64_t purge;
};

Part part_of(const FinancialOptions& options, const Cuts& cuts, std::optional<Split> split) {
  const std::int64_t reach = options.horizon - 1;  // rows of a target behind its first
  const std::int64_t purge = std::max(options.purge, reach);
  if (!split) return {cuts.train_begin, cuts.test_end, 0, reach};
  switch (*split) {
    case Split::kTrain:
      return {cuts.train_begin, cuts.train_end, 0, purge};
    case Split::kValidation:
      return {cuts.train_end, cuts.validation_end, options.embargo, purge};
    default:
      return {cuts.validation_end, cuts.test_end, options.embargo, reach};
  }
}

}  // namespace

std::vector<RowRange> rows_between(std::span<const Instrument> instruments, std::int64_t from, std::int64_t to) {
  std::vector<RowRange> ranges;
  for (std::size_t i = 0; i < instruments.size(); ++i) {
    const RowRange range{i, instruments[i].row_at(from), instruments[i].row_at(to)};
    if (range.size() > 0) ranges.push_back(range);
  }
  return ranges;
}

SampleIndex index_samples(std::span<const Instrument> instruments, const FinancialOptions& options, const Cuts& cuts,
                          std::optional<Split> part) {
  const Part limits = part_of(options, cuts, part);
  SampleIndex samples(options.stride);
  for (const auto& range : rows_between(instruments, limits.from, limits.to)) {
    // Windows begin at multiples of the stride whatever the part, so that parts hold samples of the whole.
    const std::int64_t least = std::max(range.begin + limits.embargo, options.sequence_length);
    const std::int64_t strides = (least - options.sequence_length + options.stride - 1) / options.stride;
    samples.add(range.instrument, options.sequence_length + strides * options.stride, range.end - limits.purge);
  }
  return samples;
}

}  // namespace torchfeed::datasets::financial
