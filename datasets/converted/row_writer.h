#pragma once

#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/npy/npy_writer.h>
#include <torchfeed/datasets/row_statistics.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets::converted {

inline constexpr const char* kRowsFile = "rows.npy";
inline constexpr const char* kTimesFile = "times.npy";
inline constexpr const char* kStatisticsFile = "statistics.npy";
inline constexpr const char* kStateFile = "state.npy";
inline constexpr const char* kMetaFile = "meta.json";

/// Writes rows, times and statistics to new files in a directory, or to files that are there behind their rows.
class RowWriter {
 public:
  /// `name`: of the CSV file, for messages. `rows`: that the files hold; 0 for new files.
  RowWriter(const std::filesystem::path& directory, std::vector<std::string> columns, RowType type,
            const std::string& name, std::int64_t rows = 0);

  /// Takes the place of the next `count` rows, for `put`, and gives the first one's number.
  std::int64_t reserve(std::int64_t count);
  /// Writes rows, C numbers for each time, to their place; `rows` are then what the type holds. Any thread, and several
  /// at a time. Throws DataError for a number that the type cannot hold.
  void put(std::int64_t row, std::span<float> rows, std::span<const std::int64_t> times) const;
  /// Rows that were put, in their order, one portion after the other: adds them to the statistics.
  void add(std::span<const float> rows);
  /// Forces all to the disk.
  void finish(const std::vector<double>& state);

  std::int64_t rows() const { return times_.rows(); }
  const RowStatistics& statistics() const { return statistics_; }

 private:
  std::vector<std::uint16_t> narrow(std::span<float> rows, std::span<const std::int64_t> times) const;

  std::filesystem::path directory_;
  std::vector<std::string> columns_;
  RowType type_;
  std::string name_;
  NpyWriter rows_;
  NpyWriter times_;
  RowStatistics statistics_;
};

/// The numbers of a vector of float64 that NpyWriter has written, but for their shape.
std::vector<double> read_numbers(const std::filesystem::path& path);

}  // namespace torchfeed::datasets::converted
