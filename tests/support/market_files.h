#pragma once

#include <torchfeed/datasets/iso_date.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "support/npy_file.h"
#include "support/temp_dir.h"

namespace torchfeed::testing {

inline constexpr int32_t kFirstDay = 10959;  // 2000-01-03
inline constexpr int64_t kDay = 86'400'000'000'000;

struct DayBar {
  double open, high, low, close, volume;
};

/// One bar a day from `first_day` on.
inline std::string to_csv(const std::vector<DayBar>& bars, int32_t first_day = kFirstDay) {
  std::ostringstream out;
  out << std::setprecision(17) << "date,open,high,low,close,volume\n";
  for (size_t i = 0; i < bars.size(); ++i) {
    const DayBar& bar = bars[i];
    out << datasets::format_iso_date(first_day + static_cast<int32_t>(i)) << ',' << bar.open << ',' << bar.high << ','
        << bar.low << ',' << bar.close << ',' << bar.volume << '\n';
  }
  return out.str();
}

inline std::vector<DayBar> random_bars(size_t count, uint64_t seed = 7) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, 0.01);
  std::vector<DayBar> bars;
  double price = 100;
  for (size_t i = 0; i < count; ++i) {
    DayBar bar{};
    bar.open = price * std::exp(normal(random));
    bar.close = bar.open * std::exp(normal(random));
    bar.high = std::max(bar.open, bar.close) * std::exp(std::abs(normal(random)) + 1e-3);
    bar.low = std::min(bar.open, bar.close) * std::exp(-std::abs(normal(random)));
    bar.volume = 1000 * std::exp(10 * normal(random));
    price = bar.close;
    bars.push_back(bar);
  }
  return bars;
}

/// Rows in memory, to be written as `convert` writes them.
struct RowTable {
  std::vector<std::string> columns;
  std::vector<int64_t> times;
  std::vector<float> values;  // [times, columns]
};

/// Rows of normal numbers with mean 1 and deviation 2, so far apart.
inline RowTable random_rows(size_t rows, const std::vector<std::string>& columns, uint64_t seed = 3,
                            int64_t step = kDay) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(1.0F, 2.0F);
  RowTable table{columns, {}, {}};
  for (size_t r = 0; r < rows; ++r) table.times.push_back(kFirstDay * kDay + static_cast<int64_t>(r) * step);
  for (size_t i = 0; i < rows * columns.size(); ++i) table.values.push_back(normal(random));
  return table;
}

/// [blocks, C, 2]: mean and sum of squared deviations of each block of 65,536 rows.
inline std::vector<double> block_statistics(const RowTable& table) {
  const size_t columns = table.columns.size();
  std::vector<double> statistics;
  for (size_t begin = 0; begin < table.times.size(); begin += 65536) {
    const size_t end = std::min(begin + 65536, table.times.size());
    for (size_t c = 0; c < columns; ++c) {
      double mean = 0;
      double squares = 0;
      for (size_t r = begin; r < end; ++r) mean += table.values[r * columns + c] / static_cast<double>(end - begin);
      for (size_t r = begin; r < end; ++r) squares += std::pow(table.values[r * columns + c] - mean, 2);
      statistics.insert(statistics.end(), {mean, squares});
    }
  }
  return statistics;
}

inline std::string meta_json(const std::string& instrument, const RowTable& table,
                             const std::string& dtype = "float32") {
  std::string columns;
  for (const auto& name : table.columns) columns += (columns.empty() ? "\"" : ", \"") + name + '"';
  return "{\"format\": \"torchfeed.rows\", \"version\": 1, \"instrument\": \"" + instrument + "\", \"dtype\": \"" +
         dtype + "\", \"rows\": " + std::to_string(table.times.size()) + ", \"columns\": [" + columns +
         "], \"statistics_block\": 65536}";
}

/// Writes what `convert` writes of an instrument, without its code, and gives the directory. `descr` and `rows` are of
/// rows.npy if they are not float32.
inline std::string write_converted(const TempDir& dir, const std::string& name, const RowTable& table,
                                   const std::string& dtype = "float32", const std::string& descr = "<f4",
                                   const std::string& rows = {}) {
  std::filesystem::create_directories(dir.file(name));
  const std::string count = std::to_string(table.times.size());
  const std::string columns = std::to_string(table.columns.size());
  const std::string blocks = std::to_string((table.times.size() + 65535) / 65536);
  dir.write(name + "/rows.npy", npy_header(npy_dictionary(descr, "(" + count + ", " + columns + ")")) +
                                    (rows.empty() ? bytes_of(table.values) : rows));
  dir.write(name + "/times.npy", npy_file("<i8", "(" + count + ",)", table.times));
  dir.write(name + "/statistics.npy", npy_file("<f8", "(" + blocks + ", " + columns + ", 2)", block_statistics(table)));
  dir.write(name + "/meta.json", meta_json(std::filesystem::path(name).filename(), table, dtype));
  return dir.file(name);
}

}  // namespace torchfeed::testing
