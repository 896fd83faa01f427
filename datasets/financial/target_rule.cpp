#include <torchfeed/datasets/financial/target_rule.h>

#include <c10/util/Exception.h>

#include <cmath>
#include <string>

namespace torchfeed::datasets {

std::int64_t FutureRows::row_of(std::int64_t step) const {
  TORCH_CHECK_INDEX(step >= 0 && step <= horizon_, "FutureRows: expected a step in [0, ", horizon_, "], got ", step);
  return last_row_ + step;
}

double FutureRows::value(std::int64_t step, std::size_t column) const {
  const std::size_t columns = instrument_.columns.size();
  TORCH_CHECK_INDEX(column < columns, "FutureRows: expected a column below ", columns, ", got ", column);
  return instrument_.value(row_of(step), column);
}

std::size_t FutureRows::column(const std::string& name) const { return instrument_.column(name); }

std::int64_t FutureRows::time(std::int64_t step) const { return instrument_.times[row_of(step)]; }

const std::string& FutureRows::instrument() const { return instrument_.name; }

namespace financial {
namespace {

std::string column_of(const FinancialOptions& options) {
  switch (options.target) {
    case Target::kVolatility:
      return "log_range";
    case Target::kReturn:
    case Target::kDirection:
    case Target::kLogReturn:
      return "log_return";
    case Target::kColumn:
      return options.target_column;
    case Target::kFunction:
      break;
  }
  return {};
}

/// Rows of a stretch that targets are computed of, so 2^16 in all: each takes `horizon` rows to compute.
constexpr std::int64_t kTargetStretch = 256;

/// By how much a number can differ from what was stored of it: |stored| * relative + absolute.
struct RowRounding {
  double relative;
  double absolute;  // half of the smallest number above 0
};

RowRounding rounding_of(RowType type) {
  switch (type) {
    case RowType::kFloat16:
      return {0x1p-11, 0x1p-25};
    case RowType::kBFloat16:
      return {0x1p-8, 0x1p-134};
    default:
      return {0x1p-24, 0x1p-150};
  }
}

}  // namespace

TargetRule::TargetRule(const FinancialOptions& options, std::span<const Instrument> instruments)
    : target_(options.target),
      horizon_(options.horizon),
      is_column_(target_ == Target::kColumn ||
                 (horizon_ == 1 && (target_ == Target::kVolatility || target_ == Target::kLogReturn))),
      scaled_(options.scale_target && target_ != Target::kDirection && target_ != Target::kFunction),
      function_(options.target_function) {
  const std::string name = column_of(options);
  for (const auto& instrument : instruments) {
    columns_.push_back(name.empty() ? std::vector<std::size_t>{} : std::vector{instrument.column(name)});
    closes_.push_back(instrument.find("close"));
  }
}

double TargetRule::sum(const Instrument& instrument, std::size_t column, std::int64_t row) const {
  double total = 0;
  for (std::int64_t step = 0; step < horizon_; ++step) total += instrument.value(row + step, column);
  return total;
}

double TargetRule::direction(const Instrument& instrument, std::size_t index, std::int64_t row) const {
  const auto sign = [](double number) { return static_cast<double>((number > 0) - (number < 0)); };
  const RowRounding rounding = rounding_of(instrument.type);
  double total = 0;
  double doubt = 0;  // what the rounding of the rows can have changed of the total
  for (std::int64_t step = 0; step < horizon_; ++step) {
    const double value = instrument.value(row + step, columns_[index].front());
    total += value;
    doubt += rounding.relative * std::abs(value) + rounding.absolute;
  }
  if (std::abs(total) > doubt) return sign(total);
  // Rounding keeps the order of closes, so that two that differ do so in the same direction before it.
  const auto close = closes_[index];
  if (!close || row < 1) return 0;
  return sign(instrument.value(row + horizon_ - 1, *close) - instrument.value(row - 1, *close));
}

double TargetRule::computed(const Instrument& instrument, std::size_t index, std::int64_t row) const {
  if (target_ == Target::kFunction) return function_(FutureRows(instrument, row - 1, horizon_));
  const std::size_t column = columns_[index].front();
  switch (target_) {
    case Target::kVolatility:
      return sum(instrument, column, row) / static_cast<double>(horizon_);
    case Target::kReturn:
      return std::expm1(sum(instrument, column, row));
    case Target::kDirection:
      return direction(instrument, index, row);
    default:
      return sum(instrument, column, row);
  }
}

Scale TargetRule::fit(std::span<const Instrument> instruments, std::span<const RowRange> training) const {
  if (!scaled_) return {};
  if (is_column_) return fit_standard(instruments, training, columns_).front();
  std::vector<RowRange> first_rows;
  for (const auto& range : training) {
    const RowRange rows{range.instrument, range.begin, range.end - horizon_ + 1};
    if (rows.size() > 0) first_rows.push_back(rows);
  }
  std::vector<double> targets;
  for (const auto& range : sample_of(first_rows, kTargetStretch)) {
    const auto& instrument = instruments[range.instrument];
    read_ahead(instrument, range.begin, range.end + horizon_ - 1);
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      targets.push_back((*this)(instrument, range.instrument, row));
    }
  }
  return moments_of(targets).scale();
}

}  // namespace financial
}  // namespace torchfeed::datasets
