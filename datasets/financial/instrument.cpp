#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>

namespace torchfeed::datasets::financial {

std::optional<std::size_t> Instrument::find(std::string_view name) const {
  const auto found = std::find(columns.begin(), columns.end(), name);
  if (found == columns.end()) return std::nullopt;
  return static_cast<std::size_t>(found - columns.begin());
}

std::size_t Instrument::column(std::string_view name) const {
  if (const auto found = find(name)) return *found;
  std::string names;
  for (const auto& column : columns) names += (names.empty() ? "" : ", ") + column;
  std::string text = source + ": expected a column '" + std::string(name) + '\'';
  // Windows and targets need these of every CSV file, whose own columns are then what is missing.
  if (name == "log_range") text += ", which is made of high and low";
  if (name == "log_return") text += ", which is made of close";
  throw DataError(text + ", got " + names);
}

const void* Instrument::row_address(std::int64_t row) const {
  const std::int64_t row_bytes = static_cast<std::int64_t>(columns.size()) * (type == RowType::kFloat32 ? 4 : 2);
  return static_cast<const char*>(rows) + row * row_bytes;
}

std::int64_t Instrument::row_at(std::int64_t time) const { return std::lower_bound(times, times + size, time) - times; }

Instrument Instrument::between(std::int64_t from, std::int64_t to) const {
  const std::int64_t begin = row_at(from);
  Instrument part = *this;
  part.size = std::max(row_at(to) - begin, std::int64_t{0});
  part.times += begin;
  part.first_row += begin;
  part.rows = row_address(begin);
  return part;
}

std::int64_t time_of_pooled_row(std::span<const Instrument> instruments, std::int64_t position) {
  std::int64_t total = 0;
  for (const auto& instrument : instruments) total += instrument.size;
  if (position >= total) return std::numeric_limits<std::int64_t>::max();
  if (instruments.size() == 1) return instruments.front().times[position];

  // Bisects time; `ranges` narrow down each instrument's rows that may lie on either side of it.
  std::vector<RowRange> ranges;
  std::int64_t earliest = std::numeric_limits<std::int64_t>::max();
  std::int64_t latest = std::numeric_limits<std::int64_t>::min();
  for (std::size_t i = 0; i < instruments.size(); ++i) {
    if (instruments[i].size == 0) continue;
    ranges.push_back({i, 0, instruments[i].size});
    earliest = std::min(earliest, instruments[i].times[0]);
    latest = std::max(latest, instruments[i].times[instruments[i].size - 1]);
  }
  std::vector<std::int64_t> ends(ranges.size());
  while (earliest < latest) {
    const std::int64_t middle = std::midpoint(earliest, latest);
    std::int64_t up_to_middle = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const auto* times = instruments[ranges[i].instrument].times;
      ends[i] = std::upper_bound(times + ranges[i].begin, times + ranges[i].end, middle) - times;
      up_to_middle += ends[i];
    }
    const bool after = up_to_middle <= position;
    for (std::size_t i = 0; i < ranges.size(); ++i) (after ? ranges[i].begin : ranges[i].end) = ends[i];
    (after ? earliest : latest) = after ? middle + 1 : middle;
  }
  return earliest;
}

std::string date_of(std::int64_t time) {
  const auto day = std::chrono::floor<std::chrono::days>(std::chrono::nanoseconds(time));
  return format_iso_date(static_cast<std::int32_t>(day.count()));
}

}  // namespace torchfeed::datasets::financial
