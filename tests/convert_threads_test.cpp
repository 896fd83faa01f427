#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/npy/npy_writer.h>

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <numeric>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed::datasets {
namespace {

namespace fs = std::filesystem;
using testing::read_text;
using testing::TempDir;

const std::string kPrices = std::string(TORCHFEED_DATA_DIR) + "/sp500.csv";
const std::vector<std::string> kFiles = {"rows.npy", "times.npy", "statistics.npy", "state.npy"};

template <typename Work>
std::string fault_of(Work work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

/// CSV text without every seventh value of the last column.
std::string without_some_values(const std::string& text) {
  std::istringstream lines(text);
  std::string out;
  std::string line;
  for (std::size_t i = 0; std::getline(lines, line); ++i) {
    if (i > 1 && i % 7 == 0) line.erase(line.rfind(',') + 1);
    out += line + '\n';
  }
  return out;
}

TEST(NpyWriterTest, FillsReservedPlacesInAnyOrder) {
  const TempDir dir;
  const std::string path = dir.file("x.npy");
  NpyWriter writer(path, "<i8", {}, sizeof(std::int64_t));
  constexpr std::int64_t kCount = 1000;
  std::vector<std::thread> threads;
  for (std::int64_t part = 0; part < 4; ++part) {
    EXPECT_EQ(writer.reserve(kCount), part * kCount);
    threads.emplace_back([&writer, part] {
      std::vector<std::int64_t> numbers(kCount);
      std::iota(numbers.begin(), numbers.end(), part * kCount);
      writer.write_at(part * kCount, std::as_bytes(std::span(numbers)));
    });
  }
  for (auto& thread : threads) thread.join();
  writer.finish();
  EXPECT_EQ(read_text(path).substr(0, 128), NpyWriter::header("<i8", {}, 4 * kCount));
  std::vector<std::int64_t> expected(4 * kCount);
  std::iota(expected.begin(), expected.end(), 0);
  const std::string bytes = read_text(path);
  ASSERT_EQ(bytes.size(), NpyWriter::kHeaderBytes + expected.size() * sizeof(std::int64_t));
  EXPECT_EQ(
      std::memcmp(bytes.data() + NpyWriter::kHeaderBytes, expected.data(), bytes.size() - NpyWriter::kHeaderBytes), 0);
}

TEST(ConvertThreadsTest, MakesTheSameWithSeveralThreadsAndSmallBlocks) {
  const TempDir dir;
  // All that is carried from one block to the next: windows, smoothed values, sums.
  const std::vector<std::string> features = {"rsi_14", "macd_12_26_9", "bollinger_20_2", "obv", "stochastic_14_3_3"};
  const auto path = dir.write("x.csv", without_some_values(read_text(kPrices)));
  for (const RowType type : {RowType::kFloat32, RowType::kBFloat16}) {
    ConvertOptions options{.features = features, .dtype = type, .csv = {.missing = MissingValues::kForwardFill}};
    const auto one = convert_csv(path, dir.file("one"), options);
    EXPECT_GT(one.filled_values, 100u);
    for (const int threads : {1, 2, 3, 8}) {
      for (const size_t block_bytes : {size_t{777}, size_t{20'000}}) {
        options.csv.threads = threads;
        options.csv.block_bytes = block_bytes;
        EXPECT_EQ(convert_csv(path, dir.file("many"), options).filled_values, one.filled_values);
        for (const auto& file : kFiles) {
          EXPECT_EQ(read_text(dir.file("one/x/" + file)), read_text(dir.file("many/x/" + file)))
              << file << ", " << threads << " threads, blocks of " << block_bytes;
        }
        EXPECT_EQ(read_text(dir.file("one/x/meta.json")), read_text(dir.file("many/x/meta.json")));
      }
    }
  }
}

TEST(ConvertThreadsTest, AppendsTheSameWithSeveralThreadsAndSmallBlocks) {
  const TempDir dir;
  const std::vector<std::string> features = {"rsi_14", "macd_12_26_9", "bollinger_20_2", "obv", "stochastic_14_3_3"};
  const std::string text = without_some_values(read_text(kPrices));
  const auto path = dir.write("x.csv", text);
  ConvertOptions options{.features = features, .csv = {.missing = MissingValues::kForwardFill}};
  convert_csv(path, dir.file("whole"), options);
  const auto end_of_line = [&](std::size_t at) { return text.find('\n', at) + 1; };
  for (const int threads : {2, 3, 8}) {
    fs::remove_all(dir.file("parts"));
    options.append = true;
    options.csv.threads = threads;
    options.csv.block_bytes = 2000;
    std::int64_t new_rows = 0;
    for (const std::size_t end : {end_of_line(text.size() / 3), end_of_line(text.size() / 2), text.size()}) {
      dir.write("x.csv", text.substr(0, end));
      const auto result = convert_csv(path, dir.file("parts"), options);
      new_rows += result.new_rows;
      EXPECT_EQ(new_rows, result.rows);
    }
    for (const auto& file : kFiles) {
      EXPECT_EQ(read_text(dir.file("whole/x/" + file)), read_text(dir.file("parts/x/" + file)))
          << file << ", " << threads << " threads";
    }
  }
}

// Rows are laid out and written while lines behind them are parsed: whichever thread comes to its fault first, the
// earliest in the file is told.
TEST(ConvertThreadsTest, TellsTheSameFaultWhateverTheThreads) {
  const TempDir dir;
  const auto volumes = [](int bars, int too_large) {
    std::string text = "time,volume\n";
    for (int i = 0; i < bars; ++i) {
      text +=
          std::to_string(i) + ',' + (i == too_large || i == bars - 1000 ? "70000" : std::to_string(i % 1000)) + '\n';
    }
    return text;
  };
  const auto fault = [&](const std::string& path, int threads) {
    return fault_of([&] {
      convert_csv(path, dir.file("out"),
                  {.features = std::vector<std::string>{},
                   .dtype = RowType::kFloat16,
                   .csv = {.threads = threads, .block_bytes = 2000}});
    });
  };
  for (const int too_large : {3, 2500, 20'000}) {
    // Two numbers too large, and a line behind them that is none.
    const auto path = dir.write("x.csv", volumes(30'000, too_large) + "noon,1\n");
    const auto expected = fault(path, 1);
    EXPECT_EQ(expected, path + ": column 'volume': expected a number that float16 can hold, got 70000.000000 at " +
                            csv::format_time(too_large * std::int64_t{1'000'000'000}) +
                            " (leave the column out, or take another type)");
    for (const int threads : {2, 3, 8}) {
      for (int i = 0; i < 5; ++i) EXPECT_EQ(fault(path, threads), expected);
    }
  }
  // The line comes first.
  const auto path = dir.write("x.csv", volumes(999, -1) + "noon,1\n" + volumes(30'000, 20'000));
  const auto expected = fault(path, 1);
  EXPECT_NE(expected.find("x.csv:1001: "), std::string::npos) << expected;
  for (const int threads : {2, 3, 8}) {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(fault(path, threads), expected);
  }
  EXPECT_TRUE(fs::is_empty(dir.file("out")));
}

}  // namespace
}  // namespace torchfeed::datasets
