#pragma once

#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/row_type.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// Options of `convert_csv`.
struct ConvertOptions {
  /// Features by name, as `StreamingFeatures` takes them. Default: none given, which is `BarRows::default_features`,
  /// and when appending what the directory has.
  std::optional<std::vector<std::string>> features{};
  /// Default: none given, which is float32, and when appending what the directory has.
  std::optional<RowType> dtype{};
  /// How the CSV is read. When appending, options of what is read and how (not threads and block_bytes) that are left
  /// at their defaults are those that the directory was made with.
  CsvOptions csv{};
  /// Whether bars that are later than the last one in the directory are added to it, which makes the same numbers as
  /// the conversion of all bars at once. Where the CSV has that last bar too, it must be as it was: vendors correct it
  /// after the day, or adjust all. Bars before it are passed over. A directory that is not there is made. Default:
  /// false, the directory is made anew.
  bool append = false;
  /// Name of the directory in the folder. Default: empty, that of the CSV file without .csv, .csv.gz and the like.
  std::string instrument{};
  /// Called now and then, by the calling thread, with the bytes of the file that were taken so far.
  std::function<void(std::uint64_t bytes)> progress{};
};

/// What `convert_csv` has done.
struct ConvertResult {
  std::string directory;
  std::string instrument;
  std::int64_t rows = 0;      ///< in the directory
  std::int64_t new_rows = 0;  ///< of these, written now
  std::uint64_t bars = 0;     ///< that the rows were made of
  std::vector<std::string> columns;
  std::vector<std::string> skipped_columns;  ///< of the CSV
  std::uint64_t dropped_rows = 0;            ///< of the CSV, and values filled, as `missing` asks
  std::uint64_t filled_values = 0;
  std::uint64_t late_bars = 0;  ///< passed over, as they are not in the directory but before its last one
  std::uint64_t bytes = 0;      ///< of the CSV
};

/// The name of the directory for a file: "AAPL" for data/AAPL.csv.gz.
std::string instrument_of(const std::string& path);

/// Converts a CSV file of bars to arrays that NumPy and `FinancialDataset` map, in FOLDER/INSTRUMENT:
///
/// | file | |
/// |---|---|
/// | rows.npy | [T, C] rows as `BarRows` makes them, float32, or as `dtype` asks |
/// | times.npy | [T] int64, ns since 1970-01-01 UTC, of the rows |
/// | statistics.npy | [ceil(T / 65536), C, 2] float64: mean and sum of squared deviations of blocks of stored rows |
/// | state.npy | [N] float64, what `append` goes on from |
/// | meta.json | what all this is |
///
/// Streams, in memory that does not depend on the file's size. With several `csv.threads` each of them parses, lays out
/// rows and writes them; what depends on the bars before, features and statistics, the calling thread computes in
/// between. The results are the same to the bit.
///
/// The directory takes its place when it is whole: before that, and if anything fails, what was there stays. Throws
/// what `CsvReader`, `StreamingFeatures` and `BarRows` do; `DataError` for a file with too few bars, a number that the
/// type cannot hold, a column's name that is not UTF-8, a directory that is no conversion, and one that does not fit
/// what is to be appended, or has its last bar otherwise than the CSV; std::system_error for the system's refusals;
/// std::runtime_error if another process is converting to the same place. May be called by several threads for
/// different instruments.
ConvertResult convert_csv(const std::string& path, const std::string& folder, const ConvertOptions& options = {});

/// Removes what interrupted conversions have left in the folder. Those that are under way are left alone.
void remove_interrupted_conversions(const std::string& folder);

}  // namespace torchfeed::datasets
