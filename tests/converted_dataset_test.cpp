// FinancialDataset over directories as `convert` writes them: mapped, of any type, larger than memory, damaged.

#include "support/forked_child.h"
#include "support/market_files.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"

#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/scale.h>
#include <torchfeed/datasets/financial_data_loader.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/npy/mapped_file.h>

#include <torch/torch.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed::datasets {
namespace {

using ::testing::AllOf;
using testing::bytes_of;
using ::testing::HasSubstr;
using testing::kDay;
using testing::kFirstDay;
using testing::meta_json;
using testing::npy_dictionary;
using testing::npy_file;
using testing::npy_header;
using testing::python_tuple;
using testing::random_bars;
using testing::random_rows;
using testing::RowTable;
using testing::TempDir;
using testing::to_csv;
using testing::write_converted;

const std::vector<std::string> kColumns = {"close", "log_return", "log_range", "feature"};

std::vector<size_t> all_of(const FinancialDataset& dataset) {
  std::vector<size_t> indices(dataset.size().value());
  std::iota(indices.begin(), indices.end(), size_t{0});
  return indices;
}

class ConvertedDatasetTest : public ::testing::Test {
 protected:
  static FinancialDataset open(const std::string& path, std::vector<std::string> features,
                               FinancialOptions options = {}, bool lazy = true) {
    options.features = std::move(features);
    options.lazy_loading = lazy;
    return FinancialDataset::open(path, options);
  }

  static std::string fault(const std::string& path) {
    try {
      open(path, {"feature"}, {.sequence_length = 5});
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }

  TempDir dir_;
};

TEST_F(ConvertedDatasetTest, GivesTheSameBitsMappedAsInMemoryWhateverTheColumns) {
  std::vector<std::string> columns = kColumns;
  for (int c = 4; c < 24; ++c) columns.push_back("c" + std::to_string(c));
  const RowTable table = random_rows(200, columns);
  const auto path = write_converted(dir_, "one", table);
  // All of them, runs of 1 to 20 columns side by side, as many backwards, and columns here and there.
  std::vector<std::vector<std::string>> choices = {columns, {"feature", "close"}, {"c20", "c5", "c6", "log_range"}};
  for (int count = 1; count <= 20; ++count) {
    choices.emplace_back(columns.begin() + 3, columns.begin() + 3 + count);
    choices.emplace_back(columns.rbegin(), columns.rbegin() + count);
  }
  for (const auto& features : choices) {
    FinancialDataset mapped = open(path, features, {.sequence_length = 6, .horizon = 2});
    FinancialDataset copied = open(path, features, {.sequence_length = 6, .horizon = 2}, /*lazy=*/false);
    const auto batch = mapped.get_batch(all_of(mapped));
    const auto expected = copied.get_batch(all_of(copied));
    EXPECT_TRUE(torch::equal(batch.data, expected.data)) << features.size();
    EXPECT_TRUE(torch::equal(batch.target, expected.target));
    EXPECT_EQ(mapped.targets(), copied.targets());

    // And what they should be, in double.
    const auto raw = torch::tensor(table.values).reshape({200, 24}).to(torch::kFloat64);
    for (size_t c = 0; c < features.size(); ++c) {
      const auto place = std::find(columns.begin(), columns.end(), features[c]) - columns.begin();
      const auto training = raw.slice(0, 0, 140).select(1, place);
      const auto scaled = (raw.slice(0, 33, 39).select(1, place) - training.mean()) / training.std(/*unbiased=*/false);
      const auto window = batch.data[33].select(1, static_cast<int64_t>(c)).to(torch::kFloat64);
      EXPECT_TRUE(torch::allclose(window, scaled, 1e-5, 1e-6)) << features[c];
    }
  }
}

TEST_F(ConvertedDatasetTest, GivesTheSameBitsAsTheCsvFilesThatItWasMadeOf) {
  const std::vector<std::string> csv = {dir_.write("a.csv", to_csv(random_bars(400, 1))),
                                        dir_.write("b.csv", to_csv(random_bars(300, 2), kFirstDay + 60))};
  const std::vector<std::string> features = {"close", "rsi_14", "macd_12_26_9", "log_return", "volatility_20"};
  for (const auto& path : csv) convert_csv(path, dir_.file("rows"), {.features = features});
  for (const auto& [scaling, horizon] : {std::pair{Scaling::kStandard, 1}, std::pair{Scaling::kRobust, 5}}) {
    FinancialOptions options{.sequence_length = 20, .horizon = horizon, .scaling = scaling};
    options.from = "2000-03-01";
    options.features = features;
    FinancialDataset of_csv = FinancialDataset::open(csv, options);
    EXPECT_EQ(of_csv.features(), 7);  // three of them macd's
    EXPECT_EQ(of_csv.feature_names()[3], "macd_12_26_9_signal");
    for (const bool lazy : {true, false}) {
      FinancialDataset converted = open(dir_.file("rows"), features, options, lazy);
      ASSERT_EQ(converted.feature_names(), of_csv.feature_names());
      EXPECT_EQ(converted.feature_mean(), of_csv.feature_mean());
      EXPECT_EQ(converted.target_stddev(), of_csv.target_stddev());
      for (const Split part : {Split::kTrain, Split::kValidation, Split::kTest}) {
        auto view = converted.split(part);
        auto expected = of_csv.split(part);
        ASSERT_EQ(view.size(), expected.size());
        const auto batch = view.get_batch(all_of(view));
        EXPECT_TRUE(torch::equal(batch.data, expected.get_batch(all_of(expected)).data));
        EXPECT_TRUE(torch::equal(batch.target, expected.get_batch(all_of(expected)).target));
      }
    }
  }
}

TEST_F(ConvertedDatasetTest, ReadsHalfAndBfloat16) {
  std::vector<std::string> columns = kColumns;
  for (const char* more : {"more_0", "more_1", "more_2"}) columns.push_back(more);
  RowTable table = random_rows(200, columns);
  const auto rows = torch::tensor(table.values);
  for (const bool brain : {false, true}) {
    const auto rounded = rows.to(brain ? torch::kBFloat16 : torch::kHalf);
    const auto back = rounded.to(torch::kFloat32);
    table.values.assign(back.data_ptr<float>(), back.data_ptr<float>() + back.numel());
    const std::string bytes(static_cast<const char*>(rounded.data_ptr()), table.values.size() * 2);
    const auto path =
        write_converted(dir_, brain ? "b" : "h", table, brain ? "bfloat16" : "float16", brain ? "<u2" : "<f2", bytes);
    const auto same = write_converted(dir_, "f", table);
    const std::vector<std::string> three(kColumns.begin() + 1, kColumns.end());
    for (const auto& features : {columns, kColumns, three, {"close", "log_range"}, {"log_range"}}) {
      for (const bool lazy : {true, false}) {
        FinancialDataset half = open(path, features, {.sequence_length = 6}, lazy);
        FinancialDataset whole = open(same, features, {.sequence_length = 6}, lazy);
        const auto batch = half.get_batch(all_of(half));
        EXPECT_TRUE(torch::equal(batch.data, whole.get_batch(all_of(whole)).data));
        EXPECT_TRUE(torch::equal(batch.target, whole.get_batch(all_of(whole)).target));
      }
    }
  }
}

TEST_F(ConvertedDatasetTest, FitsScalesFromStoredBlocksAndTheRowsBesideThem) {
  const size_t rows = 65536 * 3 + 1000;
  RowTable table = random_rows(rows, {"log_range", "feature"}, 3, kDay / 8);
  for (size_t r = 0; r < rows; ++r) table.values[2 * r + 1] += 1e-5F * static_cast<float>(r);
  const auto path = write_converted(dir_, "one", table);
  const auto raw =
      torch::tensor(table.values).reshape({static_cast<int64_t>(rows), 2}).to(torch::kFloat64).select(1, 1);
  // Trained on part of a block; on one and a part; from the middle of the first block on; on all but a few rows.
  struct Case {
    double train;
    size_t from;
  };
  for (const auto& [train, from] :
       {Case{0.2, 0}, Case{0.5, 0}, Case{0.7, 0}, Case{0.7, 30000}, Case{0.7, 65536}, Case{0.9989, 0}}) {
    FinancialOptions options{.sequence_length = 5};
    if (from > 0) options.from = format_iso_date(kFirstDay + static_cast<int32_t>(from / 8));
    options.train_fraction = train;
    options.validation_fraction = 0.0005;
    const FinancialDataset dataset = open(path, {"feature"}, options);
    const auto count = static_cast<int64_t>(std::floor(static_cast<double>(rows - from) * train + 1e-9));
    const auto training = raw.slice(0, static_cast<int64_t>(from), static_cast<int64_t>(from) + count);
    EXPECT_NEAR(dataset.feature_mean()[0], training.mean().item<double>(), 1e-9) << train << ' ' << from;
    EXPECT_NEAR(dataset.feature_stddev()[0], training.std(/*unbiased=*/false).item<double>(), 1e-9);
  }
}

TEST_F(ConvertedDatasetTest, UsesStoredBlocksInsteadOfReadingTheirRows) {
  const RowTable table = random_rows(65536 * 3, {"log_range", "feature"}, 3, kDay / 8);
  const auto path = write_converted(dir_, "one", table);
  auto statistics = testing::block_statistics(table);
  for (size_t block = 0; block < 3; ++block) statistics[block * 4 + 2] = 100;  // the mean of `feature`
  dir_.write("one/statistics.npy", npy_file("<f8", "(3, 2, 2)", statistics));
  EXPECT_GT(open(path, {"feature"}).feature_mean()[0], 90);  // two blocks of the 137,625 training rows
}

TEST_F(ConvertedDatasetTest, TakesRobustScalesOfManyRowsFromStretchesOfThem) {
  const int64_t rows = 1'600'000;
  RowTable table = random_rows(static_cast<size_t>(rows), {"log_range"}, 3, kDay / 1440);
  const auto path = write_converted(dir_, "one", table);
  FinancialOptions options{.sequence_length = 5, .scaling = Scaling::kRobust};
  options.train_fraction = 0.9;
  options.validation_fraction = 0.05;
  const FinancialDataset mapped = open(path, {"log_range"}, options);
  // The numbers are normal, with mean 1 and deviation 2.
  EXPECT_NEAR(mapped.feature_mean()[0], 1, 0.01);
  EXPECT_NEAR(mapped.feature_stddev()[0], 2, 0.01);
  EXPECT_EQ(mapped.feature_mean(), open(path, {"log_range"}, options, /*lazy=*/false).feature_mean());
}

TEST(SampleOfRanges, CoversRangesEvenlyFromTheFirstRowToTheLast) {
  using financial::RowRange;
  const std::vector<RowRange> few = {{0, 5, 100}, {2, 0, (1 << 20) - 95}};
  const auto all = financial::sample_of(few, 4096);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[1].end, (1 << 20) - 95);

  const std::vector<RowRange> many = {{0, 10, 1'000'000}, {1, 0, 3000}, {2, 0, 2'000'000}};
  const auto sample = financial::sample_of(many, 4096);
  int64_t rows = 0;
  std::vector<int64_t> last_end(3, 0);
  for (const auto& range : sample) {
    EXPECT_GE(range.begin, std::max(last_end[range.instrument], many[range.instrument].begin));
    EXPECT_LE(range.end, many[range.instrument].end);
    last_end[range.instrument] = range.end;
    rows += range.size();
  }
  EXPECT_EQ(rows, 1 << 20);
  EXPECT_EQ(sample.front().begin, 10);
  EXPECT_EQ(sample.back().end, 2'000'000);
  EXPECT_GT(last_end[1], 0);  // the stretch that crosses it
}

TEST_F(ConvertedDatasetTest, OpensADirectoryOfConvertedOnesAndLeavesOutWhatIsUnderWay) {
  const RowTable table = random_rows(100, kColumns);
  write_converted(dir_, "all/msft", table);
  write_converted(dir_, "all/aapl", table);
  write_converted(dir_, "all/.aapl.tmp", table);
  std::filesystem::create_directory(dir_.file("all/other"));
  const FinancialDataset dataset = open(dir_.file("all"), {"feature"}, {.sequence_length = 5});
  ASSERT_EQ(dataset.instruments(), 2U);
  EXPECT_EQ(dataset.instrument_name(0), "aapl");
  EXPECT_EQ(dataset.instrument_name(1), "msft");
}

TEST_F(ConvertedDatasetTest, StaysWithTheRowsThatItOpenedWhenTheDirectoryIsReplaced) {
  const auto path = write_converted(dir_, "one", random_rows(100, kColumns, 1));
  FinancialDataset dataset = open(path, {"feature"}, {.sequence_length = 5});
  const auto before = dataset.get_batch(all_of(dataset)).data;
  std::filesystem::rename(write_converted(dir_, "two", random_rows(50, kColumns, 2)), dir_.file("three"));
  std::filesystem::rename(path, dir_.file("old"));
  std::filesystem::rename(dir_.file("three"), path);
  std::filesystem::remove_all(dir_.file("old"));
  EXPECT_TRUE(torch::equal(dataset.get_batch(all_of(dataset)).data, before));
}

TEST_F(ConvertedDatasetTest, OpensAllFilesOfOneVersionWhileTheDirectoryIsReplaced) {
  const std::vector<std::string> versions = {write_converted(dir_, "a", random_rows(100, kColumns, 1)),
                                             write_converted(dir_, "b", random_rows(150, kColumns, 2))};
  const std::string path = dir_.file("now");
  std::filesystem::create_directory_symlink(versions[0], path);
  std::atomic<bool> is_over = false;
  std::atomic<int> replaced = 0;
  std::thread replacing([&] {
    while (!is_over) {
      std::filesystem::create_directory_symlink(versions[static_cast<size_t>(replaced % 2)], dir_.file("next"));
      std::filesystem::rename(dir_.file("next"), path);
      ++replaced;
    }
  });
  std::string error;
  try {
    for (int i = 0; i < 200 || replaced < 200; ++i) open(path, {"feature"}, {.sequence_length = 5});
  } catch (const DataError& caught) {
    error = caught.what();
  }
  is_over = true;
  replacing.join();
  EXPECT_EQ(error, "");
}

TEST_F(ConvertedDatasetTest, RefusesAnInstrumentThatComesTwice) {
  const auto path = write_converted(dir_, "rows/one", random_rows(100, kColumns));
  const auto csv = dir_.write("one.csv", to_csv(random_bars(100)));
  try {
    FinancialDataset::open({path, csv}, {.sequence_length = 5});
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_EQ(error.what(), csv + ": expected each instrument once, got 'one' of " + path + " again");
  }
}

TEST_F(ConvertedDatasetTest, TakesTheFeaturesThatAllInstrumentsHaveWhereNoneIsNamed) {
  const auto full = dir_.write("full.csv", to_csv(random_bars(100)));
  const auto part = write_converted(dir_, "part", random_rows(100, {"close", "log_range", "log_return"}));
  const auto none = write_converted(dir_, "none", random_rows(100, {"log_volume_change"}));
  for (const auto& paths : {std::vector{full, part}, std::vector{part, full}}) {
    EXPECT_EQ(FinancialDataset::open(paths, {.sequence_length = 5}).feature_names(),
              (std::vector<std::string>{"log_return", "log_range"}));
  }
  try {
    FinancialDataset::open({part, none}, {.sequence_length = 5});
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_EQ(error.what(), none + ": expected a column 'log_return', which is made of close, got log_volume_change");
  }
}

TEST_F(ConvertedDatasetTest, FeedsWorkerProcessesWithoutACopy) {
  const auto path = write_converted(dir_, "one", random_rows(300, kColumns));
  FinancialDataset dataset = open(path, {"feature", "close"}, {.sequence_length = 5});
  auto loader = make_financial_data_loader<torch::data::samplers::SequentialSampler>(
      dataset, {.batch_size = 10, .num_workers = 2, .seed = 1});
  std::vector<torch::Tensor> data;
  for (auto& batch : *loader) data.push_back(batch.data.clone());  // kept, it would be the loader that copies
  EXPECT_TRUE(torch::equal(torch::cat(data), dataset.get_batch(all_of(dataset)).data));
  EXPECT_EQ(loader->stats().copied_batches, 0U);
}

TEST_F(ConvertedDatasetTest, NamesWhatIsWrongInADirectory) {
  const RowTable table = random_rows(100, kColumns);
  const auto path = write_converted(dir_, "one", table);
  ASSERT_EQ(fault(path), "no error");
  const std::string meta = meta_json("one", table);
  const auto with_meta = [&](const std::string& from, const std::string& to) {
    std::string changed = meta;
    changed.replace(changed.find(from), from.size(), to);
    dir_.write("one/meta.json", changed);
    const std::string said = fault(path);
    dir_.write("one/meta.json", meta);
    return said;
  };
  const std::string refused = path + "/meta.json: expected what convert writes, got ";
  EXPECT_EQ(with_meta("torchfeed.rows", "other"), refused + "format \"other\"");
  EXPECT_EQ(with_meta("\"version\": 1", "\"version\": 2"), refused + "version 2");
  EXPECT_EQ(with_meta("float32", "float8"), refused + "dtype 'float8'");
  EXPECT_EQ(with_meta("65536", "1000"), refused + "statistics_block 1000");
  EXPECT_THAT(with_meta("\"rows\": 100", "\"rows\": \"many\""), HasSubstr(refused + "a fault in its JSON"));
  EXPECT_THAT(with_meta("\"rows\": 100", "\"rows\": 9223372036854775807"), HasSubstr(refused));
  EXPECT_THAT(with_meta("\"rows\": 100", "\"rows\": -1"), HasSubstr(refused));
  EXPECT_EQ(with_meta(meta, "{\"format\":"), refused + "something else than JSON of an object");
  EXPECT_EQ(with_meta("\"rows\": 100", "\"rows\": 99"),
            path + "/rows.npy: expected 'f4' of shape [99, 4] as meta.json says, got 'f4' of shape [100, 4]");
  EXPECT_THAT(with_meta("float32", "float16"), HasSubstr("/rows.npy: expected 'f2'"));
  for (const char* file : {"rows.npy", "times.npy", "statistics.npy"}) {
    const std::string name = std::string("one/") + file;
    std::ifstream in(dir_.file(name), std::ios::binary);
    const std::string content(std::istreambuf_iterator<char>(in), {});
    dir_.write(name, content.substr(0, content.size() - 1));
    EXPECT_THAT(fault(path), HasSubstr(file + std::string(": expected ")));
    std::filesystem::remove(dir_.file(name));
    EXPECT_EQ(fault(path), dir_.file(name) + ": No such file or directory");
    dir_.write(name, content);
  }
  ASSERT_EQ(fault(path), "no error");
  EXPECT_THAT(fault(dir_.path() + "/one/meta.json"), HasSubstr("meta.json"));
  std::filesystem::create_directory(dir_.file("empty"));
  EXPECT_THAT(fault(dir_.file("empty")), HasSubstr("expected a CSV file, or a directory that convert wrote"));
}

/// A line of what the kernel says of this process's memory (proc(5), status).
int64_t bytes_of_status(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

TEST_F(ConvertedDatasetTest, SaysSoWhenRowsAreNoNumbers) {
  RowTable table = random_rows(100, kColumns);
  const auto statistics = testing::block_statistics(table);
  const auto write = [&](const std::vector<double>& numbers) {
    dir_.write("one/statistics.npy", npy_file("<f8", "(1, 4, 2)", numbers));
  };
  table.values[4 * 90 + 3] = NAN;  // in the test part
  const auto path = write_converted(dir_, "one", table);
  const std::string expected =
      path + "/statistics.npy: expected a finite mean and a finite sum of squares of at least 0, got ";
  EXPECT_THAT(fault(path), AllOf(HasSubstr(expected), HasSubstr("nan (column 'feature', rows from 0 on)")));
  auto negative = statistics;
  negative[3] = -1;
  negative[2] = 0.5;
  write(negative);
  EXPECT_EQ(fault(path), expected + "0.5 and -1 (column 'log_return', rows from 0 on)");

  table.values[4 * 20 + 3] = NAN;  // in the training part, and not in the statistics
  write_converted(dir_, "one", table);
  write(statistics);
  try {
    open(path, {"feature"}, {.sequence_length = 5, .scaling = Scaling::kRobust});
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_EQ(error.what(), path + ": expected finite numbers in the training part's rows");
  }
}

/// 2^20 rows of 256 columns, 1 GiB, as a hole in rows.npy: it takes no disk, but as much memory as if it were written.
class LargeDirectory : public ConvertedDatasetTest {
 protected:
  static constexpr int64_t kRows = int64_t{1} << 20;
  static constexpr int64_t kBytes = kRows * 256 * 4;

  void SetUp() override {
    RowTable table{{"log_return", "log_range"}, {}, {}};
    for (int c = 2; c < 256; ++c) table.columns.push_back("c" + std::to_string(c));
    for (int64_t row = 0; row < kRows; ++row) table.times.push_back(row * 1'000'000'000);
    columns_ = table.columns;
    path_ = write_converted(dir_, "large", {table.columns, {0}, std::vector<float>(256)});
    const auto header = npy_header(npy_dictionary("<f4", python_tuple({kRows, 256})));
    rows_ = dir_.write("large/rows.npy", header);
    std::filesystem::resize_file(rows_, header.size() + static_cast<uintmax_t>(kBytes));
    dir_.write("large/times.npy", npy_file("<i8", python_tuple({kRows}), table.times));
    std::vector<double> statistics;
    for (int64_t i = 0; i < kRows / 65536 * 256; ++i) statistics.insert(statistics.end(), {0, 65536});
    dir_.write("large/statistics.npy", npy_file("<f8", python_tuple({kRows / 65536, 256, 2}), statistics));
    dir_.write("large/meta.json", meta_json("large", table));
  }

  /// Pages of rows.npy that are in the kernel's memory.
  int64_t cached_pages() const {
    const MappedFile file(rows_);
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> cached((file.bytes().size() + page - 1) / page);
    if (::mincore(const_cast<uint8_t*>(file.bytes().data()), file.bytes().size(), cached.data()) != 0) return -1;
    return std::count_if(cached.begin(), cached.end(), [](unsigned char flags) { return (flags & 1) != 0; });
  }

  /// Indices far from each other.
  static std::vector<size_t> scattered(size_t count) {
    std::vector<size_t> indices;
    for (size_t i = 0; i < count; ++i) indices.push_back(i * 999'983 % 1'000'000);
    return indices;
  }

  std::vector<std::string> columns_;
  std::string path_;
  std::string rows_;
};

TEST_F(LargeDirectory, IsReadInLessMemoryThanItTakesAndNotCopied) {
  if (testing::kSanitized) GTEST_SKIP() << "sanitizers take memory of their own";
  EXPECT_EQ(testing::said_in_a_child([this]() -> std::string {
              // Private memory of this process, which a mapped file is not.
              const testing::LimitScope limit(RLIMIT_DATA, static_cast<rlim_t>(bytes_of_status("VmData") + kBytes / 4));
              FinancialDataset dataset = open(path_, columns_, {.sequence_length = 5});
              for (const size_t index : scattered(2000)) {
                if (dataset.get_batch({index}).data.abs().max().item<float>() != 0) return "other numbers";
              }
              try {
                open(path_, columns_, {.sequence_length = 5}, /*lazy=*/false);
                return "copied within the limit";
              } catch (const std::bad_alloc&) {
                return "ok";
              }
            }),
            "ok");
}

TEST_F(LargeDirectory, LeavesWhatIsNotTouchedOnTheDisk) {
  const int64_t before = bytes_of_status("RssFile");
  FinancialDataset dataset = open(path_, {"c7", "c8"}, {.sequence_length = 5});
  // The end of the training part is in the middle of a block, whose rows are read for the scales.
  EXPECT_LT(cached_pages(), 65536 / 4 + 100);
  const int64_t opened = cached_pages();
  dataset.get_batch(scattered(1000));
  // A window's rows take 5 KiB, 2 or 3 pages; its target is in the next row.
  EXPECT_LE(cached_pages() - opened, 3000);
  EXPECT_LT(bytes_of_status("RssFile") - before, kBytes / 4);
}

TEST_F(LargeDirectory, ReadsSomeRowsToScaleTargetsThatNoColumnHas) {
  open(path_, {"c7", "c8"}, {.sequence_length = 5, .horizon = 3, .target = Target::kReturn});
  // 256 stretches of 256 rows and of the two behind them, 1 KiB each, and the block in which the training part ends.
  EXPECT_LT(cached_pages(), 256 * (258 / 4 + 2) + 65536 / 4 + 100);
}

}  // namespace
}  // namespace torchfeed::datasets
