#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/csv/csv_plan.h>
#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/features/catalogue.h>
#include <torchfeed/datasets/streaming_features.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace torchfeed::datasets {
namespace {

constexpr std::array<std::string_view, 5> kBarColumns = {"open", "high", "low", "close", "volume"};
// Rows that are laid side by side at once, so that they stay in the nearest cache.
constexpr std::size_t kTileRows = 128;

template <typename Names>
bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool fits_float(double value) { return std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()); }

struct DefaultFeature {
  const char* name;
  std::array<std::string_view, 2> needs;
};
constexpr std::array<DefaultFeature, 4> kDefaults = {{{"log_return", {"close", "close"}},
                                                      {"log_range", {"high", "low"}},
                                                      {"log_volume_change", {"volume", "volume"}},
                                                      {"log_close_open", {"open", "close"}}}};
// Targets are made of these, whatever features are asked for.
constexpr std::array<std::string_view, 2> kTargets = {"log_return", "log_range"};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

/// What StreamingFeatures is asked for, without a column twice.
class FeatureNames {
 public:
  void add(const std::string& name) {
    auto outputs = StreamingFeatures({name}).columns();
    const auto is_there = [this](const std::string& column) { return has(column); };
    if (std::all_of(outputs.begin(), outputs.end(), is_there)) return;
    // A whole feature takes the place of those of its columns that were asked for before.
    std::erase_if(asked_, [&](const Asked& other) { return contains(outputs, other.outputs.front()); });
    asked_.push_back({name, std::move(outputs)});
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& one : asked_) names.push_back(one.name);
    return names;
  }

 private:
  struct Asked {
    std::string name;
    std::vector<std::string> outputs;
  };

  bool has(const std::string& column) const {
    return std::any_of(asked_.begin(), asked_.end(), [&](const Asked& one) { return contains(one.outputs, column); });
  }

  std::vector<Asked> asked_;
};

// A feature is computed of UTC's time, bar by bar in production too.
void check_zone(const std::string& name, const CsvOptions& csv) {
  const bool is_of_calendar = features::make_feature(name).feature->inputs()[features::kTime];
  TORCH_CHECK_VALUE(!is_of_calendar || csv::zone_seconds(csv) == 0, "features: expected the time zone UTC for ", name,
                    ", which is that of a time in UTC, got ", csv.time_zone);
}

// The targets that can be computed, then what `features` adds.
std::vector<std::string> computed_features(const std::vector<std::string>& bar_columns,
                                           const std::vector<std::string>& features, const CsvOptions& csv) {
  FeatureNames names;
  for (const auto& name : BarRows::default_features(bar_columns, csv)) {
    if (contains(kTargets, name)) names.add(name);
  }
  for (const auto& written : features) {
    const std::string name = lower(written);
    if (contains(bar_columns, name) && (contains(kBarColumns, name) || !is_feature(name))) continue;
    names.add(name);
  }
  for (const auto& name : names.names()) check_zone(name, csv);
  return names.names();
}

}  // namespace

void RowBlock::write(float* rows) const {
  const std::size_t width = columns_.size();
  for (std::size_t begin = first_; begin < bars_.size(); begin += kTileRows) {
    const std::size_t count = std::min(kTileRows, bars_.size() - begin);
    for (std::size_t c = 0; c < width; ++c) {
      const double* values = columns_[c] + begin;
      bool fits = true;
      for (std::size_t r = 0; r < count; ++r) {
        fits &= fits_float(values[r]);
        rows[r * width + c] = static_cast<float>(values[r]);
      }
      if (!fits) fail(c, begin);
    }
    rows += count * width;
  }
}

void RowBlock::fail(std::size_t column, std::size_t bar) const {
  while (fits_float(columns_[column][bar])) ++bar;
  throw DataError(names_->file + ": column '" + names_->columns[column] +
                  "': expected a number that float32 can hold, got " + std::to_string(columns_[column][bar]) + " at " +
                  csv::format_time(bars_.times[bar]));
}

class BarRows::Impl {
 public:
  Impl(std::vector<std::string> bar_columns, const std::vector<std::string>& features, std::string name,
       const CsvOptions& csv)
      : name_(std::move(name)),
        features_(features),
        bar_columns_(std::move(bar_columns)),
        streaming_(computed_features(bar_columns_, features, csv)) {
    // The five of a bar first, in their usual order. Other columns make way for features of the same name.
    for (const auto column : kBarColumns) {
      if (contains(bar_columns_, column)) passed_.emplace_back(column);
    }
    for (const auto& column : bar_columns_) {
      if (!contains(kBarColumns, column) && !contains(streaming_.columns(), column)) passed_.push_back(column);
    }
    columns_ = passed_;
    for (const auto& column : streaming_.columns()) {
      if (!contains(columns_, column)) {
        columns_.push_back(column);
        computed_.push_back(static_cast<std::size_t>(&column - streaming_.columns().data()));
      }
    }
    if (columns_.empty()) throw DataError(name_ + ": expected a column of numbers beside the times, got none");
    compute(ColumnTable{{}, bar_columns_, std::vector<std::vector<double>>(bar_columns_.size())});  // columns missing?
    names_ = std::make_shared<RowBlock::Names>(RowBlock::Names{name_, columns_});
    last_.assign(passed_.size(), 0.0);
  }

  RowBlock take(ColumnTable bars) {
    RowBlock block;
    block.names_ = names_;
    block.features_ = compute(bars);
    block.bars_ = std::move(bars);
    for (std::size_t c = 0; c < passed_.size(); ++c) {
      const auto& values = block.bars_.values[place_of(block.bars_, passed_[c])];
      block.columns_.push_back(values.data());
      if (!values.empty()) last_[c] = values.back();
    }
    for (const std::size_t c : computed_) block.columns_.push_back(block.features_.values[c].data());
    const std::uint64_t warm_up = streaming_.warm_up();
    if (bars_ < warm_up) block.first_ = std::min<std::size_t>(warm_up - bars_, block.bars_.size());
    bars_ += block.bars_.size();
    return block;
  }

  std::vector<double> state() const {
    std::vector<double> state{static_cast<double>(bars_)};
    state.insert(state.end(), last_.begin(), last_.end());
    const auto features = streaming_.state();
    state.insert(state.end(), features.begin(), features.end());
    return state;
  }

  void load_state(std::span<const double> state) {
    const std::size_t own = 1 + last_.size();
    TORCH_CHECK_VALUE(state.size() >= own, "BarRows::load_state: expected at least ", own, " numbers, got ",
                      state.size());
    streaming_.load_state(state.subspan(own));
    bars_ = static_cast<std::uint64_t>(state[0]);
    std::copy_n(state.begin() + 1, last_.size(), last_.begin());
  }

  std::vector<double> last_values(const std::vector<std::string>& names) const {
    std::vector<double> values;
    for (const auto& name : names) {
      const auto found = std::find(passed_.begin(), passed_.end(), name);
      values.push_back(found == passed_.end() ? std::nan("")
                                              : last_[static_cast<std::size_t>(found - passed_.begin())]);
    }
    return values;
  }

  const std::vector<std::string>& columns() const { return columns_; }
  const std::vector<std::string>& features() const { return features_; }
  std::size_t warm_up() const { return streaming_.warm_up(); }
  std::uint64_t bars() const { return bars_; }

 private:
  ColumnTable compute(const ColumnTable& bars) {
    try {
      return streaming_.push(bars);
    } catch (const DataError& error) {
      throw DataError(name_ + ": " + error.what());
    }
  }

  std::size_t place_of(const ColumnTable& bars, const std::string& column) const {
    const auto place = bars.find(column);
    if (!place) throw DataError(name_ + ": expected bars with the column '" + column + "', got some without it");
    return *place;
  }

  std::string name_;
  std::vector<std::string> features_;
  std::vector<std::string> bar_columns_;
  StreamingFeatures streaming_;
  std::vector<std::string> passed_;    // columns of the bars that rows have
  std::vector<std::size_t> computed_;  // columns of the features that rows have
  std::vector<std::string> columns_;
  std::shared_ptr<const RowBlock::Names> names_;
  std::vector<double> last_;  // of `passed_`, the last bar's
  std::uint64_t bars_ = 0;
};

BarRows::BarRows(std::vector<std::string> bar_columns, const std::vector<std::string>& features, std::string name,
                 const CsvOptions& csv)
    : impl_(std::make_unique<Impl>(std::move(bar_columns), features, std::move(name), csv)) {}
BarRows::~BarRows() = default;
BarRows::BarRows(BarRows&&) noexcept = default;
BarRows& BarRows::operator=(BarRows&&) noexcept = default;

std::vector<std::string> BarRows::default_features(const std::vector<std::string>& bar_columns, const CsvOptions& csv) {
  std::vector<std::string> names;
  if (!csv.check_prices) return names;
  for (const auto& feature : kDefaults) {
    if (contains(bar_columns, feature.needs[0]) && contains(bar_columns, feature.needs[1])) {
      names.emplace_back(feature.name);
    }
  }
  return names;
}

const std::vector<std::string>& BarRows::columns() const { return impl_->columns(); }
const std::vector<std::string>& BarRows::features() const { return impl_->features(); }
std::size_t BarRows::warm_up() const { return impl_->warm_up(); }
std::uint64_t BarRows::bars() const { return impl_->bars(); }

RowBlock BarRows::take(ColumnTable bars) { return impl_->take(std::move(bars)); }

void BarRows::push(ColumnTable bars, std::vector<float>& rows, std::vector<std::int64_t>& times) {
  const RowBlock block = take(std::move(bars));
  const auto more = block.times();
  const std::size_t before = rows.size();
  rows.resize(before + more.size() * columns().size());
  block.write(rows.data() + before);
  times.insert(times.end(), more.begin(), more.end());
}

std::vector<double> BarRows::state() const { return impl_->state(); }
void BarRows::load_state(std::span<const double> state) { impl_->load_state(state); }
std::vector<double> BarRows::last_values(const std::vector<std::string>& names) const {
  return impl_->last_values(names);
}

}  // namespace torchfeed::datasets
