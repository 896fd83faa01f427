#include "baseline.h"

#include <array>
#include <cstdio>
#include <map>
#include <stdexcept>

#include "options.h"

namespace torchfeed::bench {
namespace {

using nlohmann::json;

constexpr double kLeastChange = 0.05;

/// What a row is of, e.g. "windows, torchfeed process 2, steps of 5 ms, batches of 32".
std::string key_of(const json& row) {
  const auto text = [&](const char* field) {
    const json value = row.value(field, json());
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  return text("workload") + ", " + text("loader") + ' ' + text("mode") + ' ' + text("workers") +
         (row.value("in_order", true) ? "" : " out of order") + ", steps of " + text("step_ms") + " ms, batches of " +
         text("batch_size");
}

/// The loaders' rows.
std::map<std::string, json> rows_of(const json& report) {
  std::map<std::string, json> rows;
  for (const json& row : report["rows"]) {
    if (row.is_object() && row.value("loader", "") != "limit") {
      rows.emplace(key_of(row), row);
    }
  }
  return rows;
}

/// Whether the row has a pace, and enough repeats for its spread to mean something.
bool has_spread(const json& row) {
  for (const char* field : {"samples_per_second", "samples_per_second_low", "samples_per_second_high"}) {
    if (!row.contains(field) || !row[field].is_number() || row[field].get<double>() <= 0) {
      return false;
    }
  }
  return row.value("repeats", 0) >= kLeastRepeatsToCompare;
}

/// What differs between two objects, field by field.
void note_changes(const char* what, const json& before, const json& now, std::vector<std::string>& notes) {
  json fields = before.is_object() ? before : json::object();
  if (now.is_object()) {
    fields.update(now);
  }
  for (const auto& [field, unused] : fields.items()) {
    const json old_value = before.is_object() ? before.value(field, json()) : json();
    const json new_value = now.is_object() ? now.value(field, json()) : json();
    if (old_value != new_value) {
      notes.push_back(std::string(what) + ": " + field + " was " + old_value.dump() + ", is " + new_value.dump());
    }
  }
}

void compare_row(const std::string& key, const json& before, const json& now, BaselineComparison& result) {
  const double old_pace = before["samples_per_second"];
  const double pace = now["samples_per_second"];
  const double change = pace / old_pace - 1;
  std::array<char, 160> figures{};
  std::snprintf(figures.data(), figures.size(), ": %+.1f %%, %.0f samples/s (%.0f to %.0f) after %.0f (%.0f to %.0f)",
                100 * change, pace, now["samples_per_second_low"].get<double>(),
                now["samples_per_second_high"].get<double>(), old_pace, before["samples_per_second_low"].get<double>(),
                before["samples_per_second_high"].get<double>());
  if (now["samples_per_second_high"] < before["samples_per_second_low"] && change < -kLeastChange) {
    result.slower.push_back(key + figures.data());
  } else if (now["samples_per_second_low"] > before["samples_per_second_high"] && change > kLeastChange) {
    result.faster.push_back(key + figures.data());
  }
}

}  // namespace

BaselineComparison compare_with_baseline(const json& baseline, const json& now) {
  BaselineComparison result;
  for (const char* part : {"machine", "versions", "settings"}) {
    note_changes(part, baseline.value(part, json()), now.value(part, json()), result.notes);
  }
  const auto before = rows_of(baseline);
  const auto rows = rows_of(now);
  for (const auto& [key, row] : before) {
    if (rows.count(key) == 0) {
      result.notes.push_back("only in the baseline: " + key);
    }
  }
  for (const auto& [key, row] : rows) {
    const auto old_row = before.find(key);
    if (old_row == before.end()) {
      result.notes.push_back("not in the baseline: " + key);
      continue;
    }
    if (!has_spread(row) || !has_spread(old_row->second)) {
      result.notes.push_back("without a pace of at least " + std::to_string(kLeastRepeatsToCompare) +
                             " repeats: " + key);
      continue;
    }
    ++result.compared;
    compare_row(key, old_row->second, row, result);
  }
  if (result.compared == 0) {
    throw std::invalid_argument("--baseline: none of its rows has at least " + std::to_string(kLeastRepeatsToCompare) +
                                " repeats and was measured now");
  }
  return result;
}

}  // namespace torchfeed::bench
