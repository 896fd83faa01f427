// Gathering windows of FinancialDataset beside plain memcpy, and opening converted directories.
//   build/bin/market_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// The directory is a generated one in TMPDIR, in the page cache once it has been written; set TORCHFEED_BENCH_ROWS for
// a larger one than its 100,000 rows.
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/npy/mapped_file.h>

#include <ATen/ops/empty.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace feed = torchfeed;
namespace fs = std::filesystem;
using feed::datasets::FinancialDataset;
using feed::datasets::FinancialOptions;

constexpr std::int64_t kBatch = 32;
constexpr std::int64_t kLength = 50;
constexpr std::int64_t kFeatures = 5;
constexpr std::int64_t kBlock = 65536;
/// As convert writes with its default features: prices and volume, then the features.
const std::vector<std::string> kColumns = {"open",       "high",      "low",   "close",  "volume",
                                           "log_return", "log_range", "third", "fourth", "fifth"};

std::int64_t rows_asked() {
  const char* text = std::getenv("TORCHFEED_BENCH_ROWS");
  return text == nullptr ? 100'000 : std::atoll(text);
}

std::string npy_header(const char* descr, const std::vector<std::int64_t>& shape) {
  std::ostringstream text;
  text << "{'descr': '" << descr << "', 'fortran_order': False, 'shape': (";
  for (const auto size : shape) text << size << ", ";
  text << "), }";
  std::string padded = text.str();
  padded.resize(117, ' ');
  return std::string("\x93NUMPY\x01\0\x76\0", 10) + padded + '\n';
}

/// A converted directory of rows of normal numbers, removed at the end of the program. With `more_columns` the rows are
/// zeros, that take no place on the disk.
class Directory {
 public:
  explicit Directory(std::int64_t rows, int more_columns = 0)
      : rows_(rows), is_hole_(more_columns > 0), columns_(kColumns) {
    for (int i = 0; i < more_columns; ++i) columns_.push_back("more_" + std::to_string(i));
    std::string name = (fs::temp_directory_path() / "torchfeed-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
    write_rows();
    write_times();
    write_statistics();
    std::ofstream meta(path_ / "meta.json");
    meta << R"({"format": "torchfeed.rows", "version": 1, "instrument": "bench", "dtype": "float32", "rows": )" << rows_
         << R"(, "statistics_block": 65536, "columns": [)";
    for (std::size_t c = 0; c < columns_.size(); ++c) meta << (c > 0 ? ", \"" : "\"") << columns_[c] << '"';
    meta << "]}";
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  std::string path() const { return path_.string(); }
  std::int64_t rows() const { return rows_; }

 private:
  void write_rows() const {
    std::ofstream file(path_ / "rows.npy", std::ios::binary);
    file << npy_header("<f4", {rows_, static_cast<std::int64_t>(columns_.size())});
    if (is_hole_) {
      file.flush();
      const auto bytes = static_cast<std::uintmax_t>(rows_) * columns_.size() * sizeof(float);
      return fs::resize_file(path_ / "rows.npy", fs::file_size(path_ / "rows.npy") + bytes);
    }
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> block(1000 * columns_.size());
    for (auto& value : block) value = normal(random);
    for (std::int64_t row = 0; row < rows_; row += 1000) {
      const auto count = static_cast<std::size_t>(std::min<std::int64_t>(1000, rows_ - row)) * columns_.size();
      file.write(reinterpret_cast<const char*>(block.data()), static_cast<std::streamsize>(count * sizeof(float)));
    }
  }

  void write_times() const {
    std::ofstream file(path_ / "times.npy", std::ios::binary);
    file << npy_header("<i8", {rows_});
    for (std::int64_t row = 0; row < rows_; ++row) {
      const std::int64_t time = row * 60'000'000'000;
      file.write(reinterpret_cast<const char*>(&time), sizeof time);
    }
  }

  void write_statistics() const {
    const std::int64_t blocks = (rows_ + kBlock - 1) / kBlock;
    std::ofstream file(path_ / "statistics.npy", std::ios::binary);
    file << npy_header("<f8", {blocks, static_cast<std::int64_t>(columns_.size()), 2});
    for (std::int64_t i = 0; i < blocks * static_cast<std::int64_t>(columns_.size()); ++i) {
      const double numbers[] = {0, static_cast<double>(kBlock)};
      file.write(reinterpret_cast<const char*>(numbers), sizeof numbers);
    }
  }

  std::int64_t rows_;
  bool is_hole_;
  std::vector<std::string> columns_;
  fs::path path_;
};

const Directory& directory() {
  static const Directory the_directory(rows_asked());
  return the_directory;
}

FinancialOptions options_of(bool lazy) {
  FinancialOptions options{.sequence_length = kLength};
  options.features.assign(kColumns.end() - kFeatures, kColumns.end());
  options.lazy_loading = lazy;
  return options;
}

/// Scattered, as in training. Always the same.
std::vector<std::size_t> next_indices(std::size_t samples, std::size_t& state) {
  std::vector<std::size_t> indices(kBatch);
  for (auto& index : indices) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    index = (state >> 33) % samples;
  }
  return indices;
}

/// The limit: the same windows copied from a packed table in memory into one buffer.
void gather_memcpy(benchmark::State& state) {
  const auto rows = directory().rows();
  const std::vector<float> table(static_cast<std::size_t>(rows * kFeatures), 1.0F);
  const at::Tensor batch = at::empty({kBatch, kLength, kFeatures});
  constexpr std::size_t kWindow = kLength * kFeatures;
  std::size_t random = 1;
  for (auto _ : state) {
    const auto indices = next_indices(static_cast<std::size_t>(rows - kLength), random);
    for (std::size_t i = 0; i < indices.size(); ++i) {
      std::memcpy(batch.data_ptr<float>() + i * kWindow, table.data() + indices[i] * kFeatures,
                  kWindow * sizeof(float));
    }
    benchmark::ClobberMemory();
  }
}
BENCHMARK(gather_memcpy);

/// The same with a new tensor for each batch and its targets, as get_batch has to make them.
void gather_memcpy_into_new_tensors(benchmark::State& state) {
  const auto rows = directory().rows();
  const std::vector<float> table(static_cast<std::size_t>(rows * kFeatures), 1.0F);
  constexpr std::size_t kWindow = kLength * kFeatures;
  std::size_t random = 1;
  for (auto _ : state) {
    const auto indices = next_indices(static_cast<std::size_t>(rows - kLength), random);
    const at::Tensor batch = at::empty({kBatch, kLength, kFeatures});
    const at::Tensor target = at::empty({kBatch});
    for (std::size_t i = 0; i < indices.size(); ++i) {
      std::memcpy(batch.data_ptr<float>() + i * kWindow, table.data() + indices[i] * kFeatures,
                  kWindow * sizeof(float));
      target.data_ptr<float>()[i] = table[(indices[i] + kLength) * kFeatures];
    }
    benchmark::DoNotOptimize(batch.data_ptr());
  }
}
BENCHMARK(gather_memcpy_into_new_tensors);

/// The limit where rows are mapped: the columns of the same rows of the same file, copied row by row as they are, into
/// one buffer or into new tensors.
void gather_memcpy_mapped(benchmark::State& state, bool new_tensors) {
  const feed::datasets::MappedFile file(directory().path() + "/rows.npy", feed::datasets::FileAccess::kRandom);
  const std::size_t row_bytes = sizeof(float) * kColumns.size();
  constexpr std::size_t kWanted = sizeof(float) * kFeatures;
  constexpr std::size_t kHeader = 128;
  const char* wanted = reinterpret_cast<const char*>(file.bytes().data()) + kHeader + row_bytes - kWanted;
  at::Tensor batch = at::empty({kBatch, kLength, kFeatures});
  at::Tensor target = at::empty({kBatch});
  std::size_t random = 1;
  for (auto _ : state) {
    if (new_tensors) {
      batch = at::empty({kBatch, kLength, kFeatures});
      target = at::empty({kBatch});
    }
    auto* out = static_cast<char*>(batch.data_ptr());
    auto* out_target = target.data_ptr<float>();
    for (const auto index : next_indices(static_cast<std::size_t>(directory().rows() - kLength), random)) {
      for (std::size_t row = index; row < index + kLength; ++row, out += kWanted) {
        std::memcpy(out, wanted + row * row_bytes, kWanted);
      }
      std::memcpy(out_target++, wanted + (index + kLength) * row_bytes, sizeof(float));
    }
    benchmark::ClobberMemory();
  }
}
BENCHMARK_CAPTURE(gather_memcpy_mapped, one_buffer, false);
BENCHMARK_CAPTURE(gather_memcpy_mapped, new_tensors, true);

void get_batches(benchmark::State& state, const FinancialOptions& options) {
  FinancialDataset dataset = FinancialDataset::open(directory().path(), options);
  std::size_t random = 1;
  for (auto _ : state) {
    benchmark::DoNotOptimize(dataset.get_batch(next_indices(*dataset.size(), random)).data.data_ptr());
  }
}

void get_batch_in_memory(benchmark::State& state) { get_batches(state, options_of(false)); }
BENCHMARK(get_batch_in_memory);

/// From rows of ten columns, scaled on the way.
void get_batch_mapped(benchmark::State& state) { get_batches(state, options_of(true)); }
BENCHMARK(get_batch_mapped);

void get_batch_mapped_scattered_columns(benchmark::State& state) {
  FinancialOptions options = options_of(true);
  options.features = {"close", "fifth", "open", "log_range", "third"};
  get_batches(state, options);
}
BENCHMARK(get_batch_mapped_scattered_columns);

void get_batch_mapped_window_scaling(benchmark::State& state) {
  FinancialOptions options = options_of(true);
  options.scaling = feed::datasets::Scaling::kWindow;
  get_batches(state, options);
}
BENCHMARK(get_batch_mapped_window_scaling);

/// From open() to the first window of the training part.
void open_to_first_window(benchmark::State& state, const Directory& of) {
  const FinancialOptions options = options_of(true);
  for (auto _ : state) {
    FinancialDataset dataset = FinancialDataset::open(of.path(), options);
    auto train = dataset.split(feed::datasets::Split::kTrain);
    benchmark::DoNotOptimize(train.get_batch({*train.size() / 2}).data.data_ptr());
  }
}

void open_in_the_page_cache_to_first_window(benchmark::State& state) { open_to_first_window(state, directory()); }
BENCHMARK(open_in_the_page_cache_to_first_window)->Unit(benchmark::kMillisecond)->UseRealTime();

/// The same where rows.npy has 10 GB, all of them a hole.
void open_ten_gigabytes_to_first_window(benchmark::State& state) {
  constexpr std::int64_t kRows = 10'000'000;
  constexpr int kMoreColumns = 240;
  static const Directory the_directory(kRows, kMoreColumns);
  open_to_first_window(state, the_directory);
}
BENCHMARK(open_ten_gigabytes_to_first_window)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
