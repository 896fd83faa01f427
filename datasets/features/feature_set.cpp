#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/features/feature_set.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

namespace torchfeed::datasets::features {
namespace {

constexpr double kStateVersion = 1;
constexpr std::size_t kMostCountedBars = std::size_t{1} << 53;  // what a double counts
constexpr std::size_t kTwoTo32 = std::size_t{1} << 32;

bool is_price(double value) { return value > 0 && value <= std::numeric_limits<double>::max(); }
bool is_volume(double value) { return value >= 0 && value <= std::numeric_limits<double>::max(); }

/// The first row that `fits` refuses, or `count`. Without a branch a row, as all rows are well nearly always.
template <typename Fits>
std::size_t first_misfit(const double* values, std::size_t count, Fits fits) {
  bool all = true;
  for (std::size_t row = 0; row < count; ++row) all &= fits(values[row]);
  if (all) return count;
  return static_cast<std::size_t>(std::find_if_not(values, values + count, fits) - values);
}

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  out.precision(17);
  (out << ... << parts);
  return out.str();
}

}  // namespace

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

void check_columns_differ(const std::vector<std::string>& columns) {
  std::set<std::string> seen;
  for (const auto& column : columns) {
    TORCH_CHECK_VALUE(seen.insert(column).second, "features: expected each column once, got ", column, " twice");
  }
}

FeatureSet::FeatureSet(const std::vector<std::string>& names) {
  for (const auto& name : names) {
    Member member{make_feature(name), lower_case(name), columns_.size()};
    TORCH_CHECK_VALUE(member.named.feature != nullptr, "features: expected some of ", list_of_features(), "; got '",
                      name, "'");
    columns_.insert(columns_.end(), member.named.columns.begin(), member.named.columns.end());
    inputs_ |= member.named.feature->inputs();
    warm_up_ = std::max(warm_up_, member.named.feature->warm_up());
    members_.push_back(std::move(member));
  }
  check_columns_differ(columns_);
}

std::optional<std::string> FeatureSet::find_fault(const BarColumns& bars, std::size_t count) const {
  for (std::size_t row = 0; row < count; ++row) {
    const bool first = row == 0 && bars_ == 0;
    const std::int64_t before = row == 0 ? last_time_ : bars.times[row - 1];
    if (!first && bars.times[row] <= before) {
      return text("expected a time after the bar before, ", before, " ns, got ", bars.times[row], " at bar ",
                  bars_ + row);
    }
  }
  for (std::size_t column = 0; column < kColumns; ++column) {
    if (!inputs_[column]) continue;
    const double* values = bars.values[column];
    const std::size_t row =
        column == kVolume ? first_misfit(values, count, is_volume) : first_misfit(values, count, is_price);
    if (row == count) continue;
    return text("expected a finite number ", column == kVolume ? "not below" : "above", " zero, got ",
                kColumnNames[column], " ", values[row], " at bar ", bars_ + row, ", ",
                csv::format_time(bars.times[row]));
  }
  return std::nullopt;
}

BarColumns FeatureSet::columns_of(const ColumnTable& bars) const {
  BarColumns columns;
  columns.times = bars.times.data();
  for (const Member& member : members_) {
    for (std::size_t column = 0; column < kColumns; ++column) {
      if (!member.named.feature->inputs()[column]) continue;
      const auto found = bars.find(kColumnNames[column]);
      if (!found) {
        throw DataError(text("features: expected a column ", kColumnNames[column], ", which ", member.name,
                             " uses, got ", joined(bars.names)));
      }
      const auto& values = bars.values.at(*found);
      if (values.size() != bars.size()) {
        throw DataError(text("features: expected ", bars.size(), " numbers in the column ", kColumnNames[column],
                             ", as there are times, got ", values.size()));
      }
      columns.values[column] = values.data();
    }
  }
  return columns;
}

void FeatureSet::push_bar(const BarColumns& bar, std::span<double> out) {
  for (Member& member : members_) {
    std::array<double*, kMostOutputs> pointers{};
    const auto& outputs = member.named.outputs;
    for (std::size_t i = 0; i < outputs.size(); ++i) pointers[outputs[i]] = &out[member.first_column + i];
    member.named.feature->push(bar, 1, pointers);
  }
  taken(bar, 1);
}

std::vector<std::vector<double>> FeatureSet::push_columns(const BarColumns& bars, std::size_t count, int threads) {
  // Here all memory is taken, in the threads it is touched: nothing fails after the first feature has moved on.
  std::vector<std::vector<double>> columns(columns_.size());
  for (auto& column : columns) column.reserve(count);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < members_.size();
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      push_columns_of(members_[i], bars, count, columns);
    }
  };
  {
    std::vector<std::jthread> helpers;
    const std::size_t useful = std::min(static_cast<std::size_t>(threads), members_.size());
    helpers.reserve(useful);
    try {
      while (helpers.size() + 1 < useful) helpers.emplace_back(work);
    } catch (const std::system_error&) {
      // The system grants no more threads: those that there are do it all.
    }
    work();
  }
  taken(bars, count);
  return columns;
}

void FeatureSet::push_columns_of(Member& member, const BarColumns& bars, std::size_t count,
                                 std::vector<std::vector<double>>& columns) noexcept {
  std::array<double*, kMostOutputs> pointers{};
  const auto& outputs = member.named.outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    auto& column = columns[member.first_column + i];
    column.resize(count);
    pointers[outputs[i]] = column.data();
  }
  member.named.feature->push(bars, count, pointers);
}

void FeatureSet::taken(const BarColumns& bars, std::size_t count) {
  if (count == 0) return;
  bars_ += count;
  last_time_ = bars.times[count - 1];
}

double FeatureSet::signature() const {
  // FNV-1a (Fowler, Noll and Vo) of the names.
  std::uint32_t hash = 2166136261U;
  for (const char c : joined(columns_)) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

std::vector<double> FeatureSet::state() const {
  StateWriter writer;
  writer.number(kStateVersion);
  writer.number(signature());
  writer.index(bars_, kMostCountedBars);
  const auto time = static_cast<std::uint64_t>(last_time_);
  writer.index(time >> 32, kTwoTo32);
  writer.index(time & 0xffffffffU, kTwoTo32);
  for (const Member& member : members_) member.named.feature->save(writer);
  return writer.take();
}

void FeatureSet::load(std::span<const double> state) {
  StateReader reader(state);
  double version = 0;
  double names = 0;
  reader.number(version);
  reader.number(names);
  TORCH_CHECK_VALUE(version == kStateVersion, "load_state: expected version ", kStateVersion, ", got ", version);
  TORCH_CHECK_VALUE(names == signature(), "load_state: expected the state of ", joined(columns_),
                    ", got that of other features");
  std::size_t bars = 0;
  std::size_t high = 0;
  std::size_t low = 0;
  reader.index(bars, kMostCountedBars);
  reader.index(high, kTwoTo32);
  reader.index(low, kTwoTo32);
  for (Member& member : members_) member.named.feature->load(reader);
  reader.finish();
  bars_ = bars;
  last_time_ = static_cast<std::int64_t>(high << 32 | low);
}

}  // namespace torchfeed::datasets::features
