#include <torchfeed/datasets/financial/fitted_rows.h>
#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial/load_instruments.h>
#include <torchfeed/datasets/financial/sample_index.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/iso_date.h>
#include <torchfeed/plugin/batch_memory.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

namespace torchfeed::datasets {

using financial::Cuts;
using financial::FittedRows;
using financial::Instrument;
using financial::MarketData;
using financial::SampleIndex;
using financial::SamplePlace;

namespace {

constexpr std::int64_t kEarliest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kLatest = std::numeric_limits<std::int64_t>::max();
/// More rows than any file has, and sums of a few such numbers do not overflow.
constexpr std::int64_t kMostRows = std::int64_t{1} << 48;

/// Times from `from` to before `to`.
struct TimeRange {
  std::int64_t from = kEarliest;
  std::int64_t to = kLatest;
};

std::int32_t date_option(const char* name, const std::string& text) {
  const auto date = parse_iso_date(text);
  TORCH_CHECK_VALUE(date.has_value(), "FinancialOptions: ", name, ": expected a date that exists, as YYYY-MM-DD, got '",
                    text, "'");
  return *date;
}

// Begin of a day in ns, or the end of time that this can hold.
std::int64_t begin_of(std::int32_t day) {
  constexpr std::int64_t kDay = 86'400'000'000'000;
  std::int64_t time = 0;
  if (__builtin_mul_overflow(std::int64_t{day}, kDay, &time)) return day < 0 ? kEarliest : kLatest;
  return time;
}

void check_rows(const char* name, std::int64_t value, std::int64_t least) {
  TORCH_CHECK_VALUE(value >= least && value <= kMostRows, "FinancialOptions: ", name, ": expected ", least, " to ",
                    kMostRows, ", got ", value);
}

void check_target(const FinancialOptions& options) {
  TORCH_CHECK_VALUE((options.target == Target::kColumn) == !options.target_column.empty(),
                    "FinancialOptions: target_column: expected a name with Target::kColumn and none with others, got '",
                    options.target_column, "'");
  TORCH_CHECK_VALUE((options.target == Target::kFunction) == static_cast<bool>(options.target_function),
                    "FinancialOptions: target_function: expected a function with Target::kFunction and none with "
                    "others, got ",
                    options.target_function ? "one" : "none");
}

// The one place that reads raw options.
TimeRange resolve(const FinancialOptions& options) {
  check_rows("sequence_length", options.sequence_length, 1);
  check_rows("stride", options.stride, 1);
  check_rows("horizon", options.horizon, 1);
  check_rows("purge", options.purge, 0);
  check_rows("embargo", options.embargo, 0);
  check_target(options);
  // Written so that NaN fails.
  TORCH_CHECK_VALUE(options.train_fraction > 0 && options.train_fraction < 1,
                    "FinancialOptions: train_fraction: expected a number above 0 and below 1, got ",
                    options.train_fraction);
  TORCH_CHECK_VALUE(options.validation_fraction > 0 && options.train_fraction + options.validation_fraction < 1,
                    "FinancialOptions: validation_fraction: expected a number above 0 and, with train_fraction ",
                    options.train_fraction, ", below 1, got ", options.validation_fraction);
  TimeRange range;
  if (!options.from.empty()) range.from = begin_of(date_option("from", options.from));
  if (!options.to.empty()) range.to = begin_of(date_option("to", options.to) + 1);
  TORCH_CHECK_VALUE(range.from < range.to, "FinancialOptions: from: expected a date not after to (", options.to,
                    "), got ", options.from);
  return range;
}

/// Keeps the rows in `range`; an instrument may have none, not all of them.
void select(std::vector<Instrument>& instruments, const TimeRange& range, const FinancialOptions& options) {
  std::int64_t rows = 0;
  std::int64_t first = kLatest;
  std::int64_t last = kEarliest;
  for (auto& instrument : instruments) {
    first = std::min(first, instrument.times[0]);
    last = std::max(last, instrument.times[instrument.size - 1]);
    instrument = instrument.between(range.from, range.to);
    rows += instrument.size;
  }
  if (rows > 0) return;
  throw DataError(instruments.front().source + ": expected bars from " +
                  (options.from.empty() ? "the start" : options.from) + " to " +
                  (options.to.empty() ? "the end" : options.to) + ", got " +
                  (instruments.size() > 1 ? "files" : "a file") + " from " + financial::date_of(first) + " to " +
                  financial::date_of(last));
}

std::int64_t pooled_rows(const MarketData& data) {
  std::int64_t rows = 0;
  for (const auto& instrument : data.instruments) rows += instrument.size;
  return rows;
}

// The tiny factor keeps a product that is a whole number on paper (100 * 0.29) from losing a row to rounding, however
// many rows there are: it is more than the rounding of the fraction and of the product together.
std::int64_t share_of(std::int64_t rows, double fraction) {
  return static_cast<std::int64_t>(std::floor(static_cast<double>(rows) * fraction * (1 + 0x1p-50)));
}

void check_parts(const MarketData& data, const Cuts& cuts, bool needs_validation) {
  const auto samples = [&](Split part) {
    return financial::index_samples(data.instruments, data.options, cuts, part).size();
  };
  if (samples(Split::kTrain) > 0 && samples(Split::kTest) > 0 &&
      (!needs_validation || samples(Split::kValidation) > 0)) {
    return;
  }
  const auto rows = [&](std::int64_t from, std::int64_t to) {
    std::int64_t total = 0;
    for (const auto& range : financial::rows_between(data.instruments, from, to)) total += range.size();
    return std::to_string(total);
  };
  std::ostringstream message;
  message << data.instruments.front().source;
  if (data.instruments.size() > 1) message << " and " << data.instruments.size() - 1 << " more";
  message << ": expected more rows than one window of " << data.options.sequence_length
          << " in the training part and at least ";
  if (data.options.horizon == 1) {
    message << "one row";
  } else {
    message << "a horizon of " << data.options.horizon << " rows";
  }
  message << " in each other" << (data.options.embargo > 0 || data.options.purge > 0 ? " beyond purge and embargo" : "")
          << ", got " << rows(cuts.train_begin, cuts.train_end) << " for training, "
          << rows(cuts.train_end, cuts.validation_end) << " for validation, "
          << rows(cuts.validation_end, cuts.test_end) << " for the test";
  throw DataError(message.str());
}

/// The columns of a window, that all instruments have.
std::vector<std::string> resolve_features(const FinancialOptions& options, const std::vector<Instrument>& instruments) {
  const auto names = options.features.empty() ? financial::default_features(instruments)
                                              : financial::feature_columns(options.features);
  for (auto name = names.begin(); name != names.end(); ++name) {
    TORCH_CHECK_VALUE(std::find(names.begin(), name, *name) == name,
                      "FinancialOptions: features: expected each once, got '", *name, "' again");
  }
  return names;
}

}  // namespace

/// Some samples of the data, on the scales of a training part.
struct FinancialDataset::View {
  View(std::shared_ptr<const MarketData> market, std::shared_ptr<const FittedRows> rows, std::optional<Split> part)
      : data(std::move(market)),
        fitted(std::move(rows)),
        samples(financial::index_samples(data->instruments, data->options, fitted->cuts(), part)) {}

  std::shared_ptr<const MarketData> data;
  std::shared_ptr<const FittedRows> fitted;  // refers to `data`
  SampleIndex samples;

  void check(std::size_t i) const {
    TORCH_CHECK_INDEX(i < samples.size(), "FinancialDataset: expected an index below the size ", samples.size(),
                      ", got ", i);
  }

  SamplePlace place(std::size_t i) const {
    check(i);
    return samples[i];
  }

  const Instrument& instrument(std::size_t i) const {
    TORCH_CHECK_INDEX(i < data->instruments.size(), "FinancialDataset: expected an instrument below ",
                      data->instruments.size(), ", got ", i);
    return data->instruments[i];
  }
};

FinancialDataset FinancialDataset::open(const std::string& path, const FinancialOptions& options) {
  return open(std::vector{path}, options);
}

FinancialDataset FinancialDataset::open(const std::vector<std::string>& paths, const FinancialOptions& options) {
  const TimeRange range = resolve(options);
  TORCH_CHECK_VALUE(!paths.empty(), "FinancialDataset::open: expected at least one path, got none");
  auto instruments = financial::load_instruments(paths, options);
  auto features = resolve_features(options, instruments);
  select(instruments, range, options);
  const auto data = std::make_shared<const MarketData>(options, std::move(instruments), std::move(features));
  const auto time_after = [&](double fraction) {
    return financial::time_of_pooled_row(data->instruments, share_of(pooled_rows(*data), fraction));
  };
  const Cuts cuts{kEarliest, time_after(options.train_fraction),
                  time_after(options.train_fraction + options.validation_fraction), kLatest};
  check_parts(*data, cuts, /*needs_validation=*/true);
  auto fitted = std::make_shared<const FittedRows>(*data, cuts, /*copied=*/!options.lazy_loading);
  return FinancialDataset(std::make_shared<const View>(data, std::move(fitted), std::nullopt));
}

FinancialDataset FinancialDataset::split(Split part) const {
  TORCH_CHECK_VALUE(part == Split::kTrain || part == Split::kValidation || part == Split::kTest,
                    "FinancialDataset::split: expected kTrain, kValidation or kTest, got ", static_cast<int>(part));
  return FinancialDataset(std::make_shared<const View>(view_->data, view_->fitted, part));
}

std::vector<FinancialDataset> FinancialDataset::walk_forward(const WalkForwardOptions& options) const {
  const auto& data = view_->data;
  const std::int64_t rows = pooled_rows(*data);
  const std::int64_t most = std::min<std::int64_t>(rows, std::numeric_limits<std::int32_t>::max());
  TORCH_CHECK_VALUE(options.folds >= 1 && options.folds <= most, "WalkForwardOptions: folds: expected 1 to ", most,
                    ", got ", options.folds);
  TORCH_CHECK_VALUE(options.train_fraction > 0 && options.train_fraction < 1,
                    "WalkForwardOptions: train_fraction: expected a number above 0 and below 1, got ",
                    options.train_fraction);
  TORCH_CHECK_VALUE(options.validation_fraction >= 0 && options.validation_fraction < 1,
                    "WalkForwardOptions: validation_fraction: expected a number of at least 0 and below 1, got ",
                    options.validation_fraction);
  const std::int64_t first = share_of(rows, options.train_fraction);
  const std::int64_t rest = rows - first;
  // rest * fold / folds, without its overflow: folds are below 2^31.
  const auto test_begin = [&](std::int64_t fold) {
    return first + rest / options.folds * fold + rest % options.folds * fold / options.folds;
  };
  const auto time = [&](std::int64_t row) { return financial::time_of_pooled_row(data->instruments, row); };
  std::vector<FinancialDataset> folds;
  for (std::int64_t fold = 0; fold < options.folds; ++fold) {
    const std::int64_t begin = options.expanding ? 0 : test_begin(fold) - first;
    const std::int64_t known = test_begin(fold) - begin;
    const std::int64_t validation = share_of(known, options.validation_fraction);
    const Cuts cuts{begin == 0 ? kEarliest : time(begin), time(test_begin(fold) - validation), time(test_begin(fold)),
                    time(test_begin(fold + 1))};
    check_parts(*data, cuts, /*needs_validation=*/validation > 0);
    auto fitted = std::make_shared<const FittedRows>(*data, cuts, /*copied=*/false);
    folds.push_back(FinancialDataset(std::make_shared<const View>(data, std::move(fitted), std::nullopt)));
  }
  return folds;
}

torch::data::Example<> FinancialDataset::get_batch(c10::ArrayRef<std::size_t> indices) {
  const View& view = *view_;
  for (const std::size_t index : indices) view.check(index);  // an error comes before any memory is taken
  const auto batch = static_cast<std::int64_t>(indices.size());
  torch::Tensor data = empty_batch({batch, sequence_length(), features()}, torch::kFloat32);
  torch::Tensor target = empty_batch({batch}, torch::kFloat32);
  const auto window = static_cast<std::size_t>(sequence_length() * features());
  float* data_out = data.data_ptr<float>();
  float* target_out = target.data_ptr<float>();
  const FittedRows& fitted = *view.fitted;
  SamplePlace next = indices.empty() ? SamplePlace{} : view.samples[indices[0]];
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const SamplePlace place = next;
    if (i + 1 < indices.size()) {
      next = view.samples[indices[i + 1]];
      fitted.prefetch(next);
    }
    fitted.copy_window(place, data_out + i * window);
    target_out[i] = fitted.target(place);
  }
  return {std::move(data), std::move(target)};
}

torch::optional<std::size_t> FinancialDataset::size() const { return view_->samples.size(); }

const FinancialOptions& FinancialDataset::options() const { return view_->data->options; }

std::int64_t FinancialDataset::sequence_length() const { return view_->data->options.sequence_length; }

std::int64_t FinancialDataset::features() const { return static_cast<std::int64_t>(feature_names().size()); }

const std::vector<std::string>& FinancialDataset::feature_names() const { return view_->data->feature_names; }

std::size_t FinancialDataset::instruments() const { return view_->data->instruments.size(); }

const std::string& FinancialDataset::instrument_name(std::size_t instrument) const {
  return view_->instrument(instrument).name;
}

const std::string& FinancialDataset::instrument_source(std::size_t instrument) const {
  return view_->instrument(instrument).source;
}

std::int64_t FinancialDataset::rows(std::size_t instrument) const { return view_->instrument(instrument).size; }

std::vector<float> FinancialDataset::target_series(std::size_t instrument) const {
  const std::int64_t horizon = view_->data->options.horizon;
  std::vector<float> series(static_cast<std::size_t>(rows(instrument)), std::numeric_limits<float>::quiet_NaN());
  for (std::int64_t row = view_->data->rule.first_row(); row + horizon <= rows(instrument); ++row) {
    series[static_cast<std::size_t>(row)] = view_->fitted->target({instrument, row});
  }
  return series;
}

std::size_t FinancialDataset::target_instrument(std::size_t i) const { return view_->place(i).instrument; }

std::int64_t FinancialDataset::target_row(std::size_t i) const { return view_->place(i).row; }

float FinancialDataset::target(std::size_t i) const { return view_->fitted->target(view_->place(i)); }

std::vector<float> FinancialDataset::targets() const {
  std::vector<float> targets(view_->samples.size());
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = view_->fitted->target(view_->samples[i]);
  return targets;
}

double FinancialDataset::target_mean() const { return view_->fitted->target_scale().centre; }

double FinancialDataset::target_stddev() const { return view_->fitted->target_scale().spread; }

std::vector<double> FinancialDataset::feature_mean() const {
  std::vector<double> means;
  for (const auto& scale : view_->fitted->feature_scales()) means.push_back(scale.centre);
  return means;
}

std::vector<double> FinancialDataset::feature_stddev() const {
  std::vector<double> deviations;
  for (const auto& scale : view_->fitted->feature_scales()) deviations.push_back(scale.spread);
  return deviations;
}

std::int64_t FinancialDataset::time(std::int64_t row, std::size_t instrument) const {
  const std::int64_t count = rows(instrument);
  TORCH_CHECK_INDEX(row >= 0 && row < count, "FinancialDataset: expected a row in [0, ", count, "), got ", row);
  return view_->instrument(instrument).times[row];
}

std::string FinancialDataset::date(std::int64_t row, std::size_t instrument) const {
  return financial::date_of(time(row, instrument));
}

std::string FinancialDataset::first_target_date() const {
  view_->place(0);
  std::int64_t earliest = kLatest;
  for (const auto& [first, last] : view_->samples.first_and_last()) {
    earliest = std::min(earliest, time(first.row, first.instrument));
  }
  return financial::date_of(earliest);
}

std::string FinancialDataset::last_target_date() const {
  view_->place(0);
  std::int64_t latest = kEarliest;
  for (const auto& [first, last] : view_->samples.first_and_last()) {
    latest = std::max(latest, time(last.row, last.instrument));
  }
  return financial::date_of(latest);
}

}  // namespace torchfeed::datasets
