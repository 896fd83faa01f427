#pragma once

#include <torchfeed/datasets/column_table.h>
#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::testing {

inline constexpr std::int64_t kDay = 86'400'000'000'000;  // ns

/// Bars of a price that walks at random from `price` by steps of about `step` of it, a day each.
inline datasets::ColumnTable random_bars(std::size_t count, double price = 100, double step = 0.01) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal(0, step);
  datasets::ColumnTable bars;
  bars.names = {"open", "high", "low", "close", "volume"};
  bars.values.assign(5, std::vector<double>(count));
  double log_price = 0;
  for (std::size_t t = 0; t < count; ++t) {
    const double open = price * std::exp(log_price);
    log_price += normal(random) - 0.001 * log_price;  // never far away
    const double close = price * std::exp(log_price);
    bars.times.push_back(10'957 * kDay + static_cast<std::int64_t>(t) * (kDay / 24 + 61));
    bars.values[0][t] = open;
    bars.values[1][t] = std::max(open, close) * std::exp(std::abs(normal(random)));
    bars.values[2][t] = std::min(open, close) * std::exp(-std::abs(normal(random)));
    bars.values[3][t] = close;
    bars.values[4][t] = t % 97 == 5 ? 0 : std::floor(1e6 * std::exp(50 * normal(random)));
  }
  return bars;
}

/// The columns of a CSV file as text; the first line has their names.
inline std::pair<std::vector<std::string>, std::vector<std::vector<std::string>>> read_cells(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error("cannot read " + path);
  const auto split = [](const std::string& text) {
    std::vector<std::string> cells;
    std::istringstream in(text + ',');
    for (std::string cell; std::getline(in, cell, ',');) cells.push_back(cell);
    return cells;
  };
  const auto names = split(line);
  std::vector<std::vector<std::string>> columns(names.size());
  while (std::getline(file, line)) {
    const auto cells = split(line);
    for (std::size_t i = 0; i < columns.size(); ++i) columns[i].push_back(cells.at(i));
  }
  return {names, columns};
}

/// The S&P 500 that comes with torchfeed.
inline datasets::ColumnTable sp500_bars() {
  const auto [names, columns] = read_cells(std::string(TORCHFEED_DATA_DIR) + "/sp500.csv");
  datasets::ColumnTable bars;
  for (const auto& date : columns.at(0)) bars.times.push_back(datasets::parse_iso_date(date).value() * kDay);
  for (std::size_t i = 1; i < names.size(); ++i) {
    bars.names.push_back(names[i]);
    auto& values = bars.values.emplace_back();
    for (const auto& cell : columns[i]) values.push_back(std::stod(cell));
  }
  return bars;
}

}  // namespace torchfeed::testing
