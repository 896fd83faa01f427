#include <torchfeed/datasets/csv_reader.h>
#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/iso_date.h>
#include <torchfeed/plugin/batch_memory.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

namespace torchfeed::datasets {
namespace {

struct DateRange {
  int32_t from = std::numeric_limits<int32_t>::min();
  int32_t to = std::numeric_limits<int32_t>::max();
};

int32_t date_option(const char* name, const std::string& text) {
  const auto date = parse_iso_date(text);
  TORCH_CHECK_VALUE(date.has_value(), "FinancialOptions: ", name, ": expected a date that exists, as YYYY-MM-DD, got '",
                    text, "'");
  return *date;
}

// The one place that reads raw options.
DateRange resolve(const FinancialOptions& options) {
  TORCH_CHECK_VALUE(options.sequence_length >= 1, "FinancialOptions: sequence_length: expected 1 or more, got ",
                    options.sequence_length);
  // Written so that NaN fails.
  TORCH_CHECK_VALUE(options.train_fraction > 0 && options.train_fraction < 1,
                    "FinancialOptions: train_fraction: expected a number above 0 and below 1, got ",
                    options.train_fraction);
  TORCH_CHECK_VALUE(options.validation_fraction > 0 && options.train_fraction + options.validation_fraction < 1,
                    "FinancialOptions: validation_fraction: expected a number above 0 and, with train_fraction ",
                    options.train_fraction, ", below 1, got ", options.validation_fraction);
  DateRange range;
  if (!options.from.empty()) range.from = date_option("from", options.from);
  if (!options.to.empty()) range.to = date_option("to", options.to);
  TORCH_CHECK_VALUE(range.from <= range.to, "FinancialOptions: from: expected a date not after to (", options.to,
                    "), got ", options.from);
  return range;
}

// Keeps the bars in `range`.
PriceTable select(PriceTable prices, const DateRange& range, const FinancialOptions& options, const std::string& name) {
  const auto begin = std::lower_bound(prices.date.begin(), prices.date.end(), range.from);
  const auto end = std::upper_bound(prices.date.begin(), prices.date.end(), range.to);
  if (begin == end) {
    throw DataError(name + ": expected bars from " + (options.from.empty() ? "the start" : options.from) + " to " +
                    (options.to.empty() ? "the end" : options.to) + ", got a file from " +
                    format_iso_date(prices.date.front()) + " to " + format_iso_date(prices.date.back()));
  }
  const auto first = begin - prices.date.begin();
  const auto last = end - prices.date.begin();
  const auto cut = [&](auto& column) {
    column.erase(column.begin() + last, column.end());
    column.erase(column.begin(), column.begin() + first);
  };
  cut(prices.date);
  for (auto* column : {&prices.open, &prices.high, &prices.low, &prices.close, &prices.volume}) cut(*column);
  return prices;
}

struct Feature {
  const char* name;
  std::vector<double> values;
};

// In the order of the class's documentation, bar by bar.
std::vector<Feature> make_features(const PriceTable& prices) {
  std::vector<Feature> features;
  features.push_back({"log_return", log_return(prices.close)});
  features.push_back({"log_range", log_range(prices.high, prices.low)});
  features.push_back({"log_volume_change", log_volume_change(prices.volume)});
  features.push_back({"log_close_open", log_close_open(prices.open, prices.close)});
  return features;
}

std::vector<double> directions(std::span<const double> close) {
  std::vector<double> out(close.size());
  for (size_t t = 1; t < out.size(); ++t) out[t] = (close[t] > close[t - 1]) - (close[t] < close[t - 1]);
  return out;
}

struct Scale {
  double mean = 0;
  double stddev = 1;

  float operator()(double value) const { return static_cast<float>((value - mean) / stddev); }
};

Scale fit_scale(std::span<const double> values) {
  const auto count = static_cast<double>(values.size());
  double sum = 0;
  for (const double value : values) sum += value;
  const double mean = sum / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double stddev = std::sqrt(squares / count);
  // Equal values leave a rounding error here, which must not be blown up to the size of a signal.
  const bool varies = stddev > 1e-12 * (1 + std::abs(mean));
  return {mean, varies ? stddev : 1.0};
}

}  // namespace

struct FinancialDataset::Table {
  FinancialOptions options;
  std::vector<int32_t> date;         // [T], days since 1970-01-01
  std::vector<float> rows;           // [T, C]
  std::vector<float> target_series;  // [T]
  std::vector<std::string> feature_names;
  std::vector<double> feature_mean;
  std::vector<double> feature_stddev;
  Scale target_scale;
  // Rows [0, train_end) are for training, [train_end, validation_end) for validation, the rest for the test.
  int64_t train_end = 0;
  int64_t validation_end = 0;

  int64_t size() const { return static_cast<int64_t>(date.size()); }

  void cut_into_parts(const std::string& name);
  void fill(const PriceTable& prices);
};

void FinancialDataset::Table::cut_into_parts(const std::string& name) {
  // The tiny addend keeps a product that is a whole number on paper (100 * 0.29) from losing a row to rounding.
  const auto rows_before = [this](double fraction) {
    return static_cast<int64_t>(std::floor(static_cast<double>(size()) * fraction + 1e-9));
  };
  train_end = rows_before(options.train_fraction);
  validation_end = rows_before(options.train_fraction + options.validation_fraction);
  if (train_end > options.sequence_length && validation_end > train_end && size() > validation_end) return;
  throw DataError(name + ": expected more rows than one window of " + std::to_string(options.sequence_length) +
                  " in the training part and at least one row in each other, got " + std::to_string(train_end) +
                  " for training, " + std::to_string(validation_end - train_end) + " for validation, " +
                  std::to_string(size() - validation_end) + " for the test (from " + std::to_string(size() + 1) +
                  " bars)");
}

void FinancialDataset::Table::fill(const PriceTable& prices) {
  // The first bar has no return, so row r is bar r + 1.
  const auto of_rows = [](const std::vector<double>& bars) { return std::span(bars).subspan(1); };
  const auto training = static_cast<size_t>(train_end);
  const auto features = make_features(prices);
  rows.resize(date.size() * features.size());
  for (size_t c = 0; c < features.size(); ++c) {
    const auto values = of_rows(features[c].values);
    const Scale scale = fit_scale(values.first(training));
    for (size_t r = 0; r < values.size(); ++r) rows[r * features.size() + c] = scale(values[r]);
    feature_names.emplace_back(features[c].name);
    feature_mean.push_back(scale.mean);
    feature_stddev.push_back(scale.stddev);
  }

  std::vector<double> target;
  switch (options.target) {
    case Target::kVolatility:
      target = log_range(prices.high, prices.low);
      break;
    case Target::kReturn:
      target = log_return(prices.close);
      break;
    case Target::kDirection:
      target = directions(prices.close);
      break;
  }
  const auto values = of_rows(target);
  if (options.target != Target::kDirection) target_scale = fit_scale(values.first(training));
  target_series.resize(values.size());
  std::transform(values.begin(), values.end(), target_series.begin(), target_scale);
}

FinancialDataset FinancialDataset::open(const std::string& path, const FinancialOptions& options) {
  const DateRange range = resolve(options);
  const PriceTable prices = select(read_prices(path), range, options, path);
  auto table = std::make_shared<Table>();
  table->options = options;
  table->date.assign(prices.date.begin() + 1, prices.date.end());
  table->cut_into_parts(path);
  table->fill(prices);
  const int64_t rows = table->size();
  return FinancialDataset(std::move(table), options.sequence_length, rows);
}

FinancialDataset::FinancialDataset(std::shared_ptr<const Table> table, int64_t first_target, int64_t end_target)
    : table_(std::move(table)), first_target_(first_target), end_target_(end_target) {}

FinancialDataset FinancialDataset::split(Split part) const {
  switch (part) {
    case Split::kTrain:
      return FinancialDataset(table_, table_->options.sequence_length, table_->train_end);
    case Split::kValidation:
      return FinancialDataset(table_, table_->train_end, table_->validation_end);
    case Split::kTest:
      return FinancialDataset(table_, table_->validation_end, table_->size());
  }
  TORCH_CHECK_VALUE(false, "FinancialDataset::split: expected kTrain, kValidation or kTest, got ",
                    static_cast<int>(part));
}

torch::data::Example<> FinancialDataset::get_batch(c10::ArrayRef<size_t> indices) {
  const int64_t batch = static_cast<int64_t>(indices.size());
  const int64_t length = sequence_length();
  const int64_t columns = features();
  for (const size_t index : indices) target_row(index);  // an error comes before any memory is taken
  torch::Tensor data = empty_batch({batch, length, columns}, torch::kFloat32);
  torch::Tensor target = empty_batch({batch}, torch::kFloat32);

  const float* rows = table_->rows.data();
  const float* series = table_->target_series.data();
  const auto window = static_cast<size_t>(length * columns);
  float* data_out = data.data_ptr<float>();
  float* target_out = target.data_ptr<float>();
  for (size_t i = 0; i < indices.size(); ++i) {
    const int64_t row = first_target_ + static_cast<int64_t>(indices[i]);
    std::memcpy(data_out + i * window, rows + (row - length) * columns, window * sizeof(float));
    target_out[i] = series[row];
  }
  return {std::move(data), std::move(target)};
}

torch::optional<size_t> FinancialDataset::size() const { return static_cast<size_t>(end_target_ - first_target_); }

const FinancialOptions& FinancialDataset::options() const { return table_->options; }

int64_t FinancialDataset::sequence_length() const { return table_->options.sequence_length; }

int64_t FinancialDataset::features() const { return static_cast<int64_t>(table_->feature_names.size()); }

const std::vector<std::string>& FinancialDataset::feature_names() const { return table_->feature_names; }

int64_t FinancialDataset::rows() const { return table_->size(); }

const std::vector<float>& FinancialDataset::target_series() const { return table_->target_series; }

int64_t FinancialDataset::target_row(size_t i) const {
  const auto samples = static_cast<size_t>(end_target_ - first_target_);
  TORCH_CHECK_INDEX(i < samples, "FinancialDataset: expected an index below the size ", samples, ", got ", i);
  return first_target_ + static_cast<int64_t>(i);
}

float FinancialDataset::target(size_t i) const { return table_->target_series[static_cast<size_t>(target_row(i))]; }

std::vector<float> FinancialDataset::targets() const {
  const auto begin = table_->target_series.begin();
  return {begin + first_target_, begin + end_target_};
}

double FinancialDataset::target_mean() const { return table_->target_scale.mean; }

double FinancialDataset::target_stddev() const { return table_->target_scale.stddev; }

const std::vector<double>& FinancialDataset::feature_mean() const { return table_->feature_mean; }

const std::vector<double>& FinancialDataset::feature_stddev() const { return table_->feature_stddev; }

std::string FinancialDataset::date(int64_t row) const {
  TORCH_CHECK_INDEX(row >= 0 && row < rows(), "FinancialDataset::date: expected a row in [0, ", rows(), "), got ", row);
  return format_iso_date(table_->date[static_cast<size_t>(row)]);
}

std::string FinancialDataset::first_target_date() const { return date(first_target_); }

std::string FinancialDataset::last_target_date() const { return date(end_target_ - 1); }

}  // namespace torchfeed::datasets
