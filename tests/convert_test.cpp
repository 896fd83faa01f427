#include <sys/stat.h>
#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/converted/staged_directory.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/npy/npy_writer.h>
#include <torchfeed/datasets/row_statistics.h>

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed::datasets {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::read_text;
using testing::TempDir;

const std::string kPrices = std::string(TORCHFEED_DATA_DIR) + "/sp500.csv";
const std::vector<std::string> kFiles = {"rows.npy", "times.npy", "statistics.npy", "state.npy"};

/// An array's numbers behind the header.
template <typename T>
std::vector<T> numbers_in(const std::string& path) {
  const std::string bytes = read_text(path);
  std::vector<T> numbers((bytes.size() - NpyWriter::kHeaderBytes) / sizeof(T));
  std::memcpy(numbers.data(), bytes.data() + NpyWriter::kHeaderBytes, numbers.size() * sizeof(T));
  return numbers;
}

template <typename Work>
std::string fault_of(Work work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

/// The lines [begin, end) of the prices that come with torchfeed, below their header.
std::string prices_between(std::size_t begin, std::size_t end) {
  std::istringstream text(read_text(kPrices));
  std::string part;
  std::string line;
  for (std::size_t i = 0; std::getline(text, line); ++i) {
    if (i == 0 || (i - 1 >= begin && i - 1 < end)) part += line + '\n';
  }
  return part;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(NpyWriterTest, WritesTheHeaderThatNumPyDefines) {
  const std::string header = NpyWriter::header("<f4", {3, 2}, 12);
  EXPECT_EQ(header.size(), 128u);
  EXPECT_EQ(header.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  const std::string dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3, 2), }";
  EXPECT_EQ(header.substr(10, dictionary.size()), dictionary);
  EXPECT_EQ(header.substr(10 + dictionary.size()), std::string(128 - 11 - dictionary.size(), ' ') + '\n');
  EXPECT_NE(NpyWriter::header("<i8", {}, 5).find("'shape': (5,), }"), std::string::npos);
}

TEST(NpyWriterTest, GoesOnWithAFileThatItHasWrittenAndNoOther) {
  const TempDir dir;
  const std::string path = dir.file("x.npy");
  {
    NpyWriter writer(path, "<f4", {2}, sizeof(float));
    writer.write(std::vector<float>{1, 2, 3, 4});
    EXPECT_THROW(writer.write(std::vector<float>{1}), std::invalid_argument);
    writer.finish();
  }
  auto writer = NpyWriter::append_to(path, "<f4", {2}, sizeof(float), 2);
  writer.write(std::vector<float>{5, 6});
  writer.finish();
  EXPECT_EQ(read_text(path).substr(0, 128), NpyWriter::header("<f4", {2}, 3));
  EXPECT_EQ(numbers_in<float>(path), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_THROW(NpyWriter::append_to(path, "<f4", {2}, sizeof(float), 2), DataError);
  EXPECT_THROW(NpyWriter::append_to(path, "<f8", {1}, sizeof(double), 3), DataError);
}

TEST(RowStatisticsTest, AreThoseOfTheRowsInWhateverPortions) {
  std::vector<float> rows;
  for (int i = 0; i < 2 * 70000; ++i) rows.push_back(static_cast<float>(1e4 + std::sin(i) * (i % 2 == 0 ? 1 : 100)));
  RowStatistics whole(2);
  whole.add(rows);
  RowStatistics first(2);
  first.add(std::span(rows).first(2 * 66000));
  RowStatistics resumed(2, first.rows(), first.blocks());
  for (std::size_t at = 2 * 66000; at < rows.size(); at += 500) resumed.add(std::span(rows).subspan(at, 500));
  EXPECT_EQ(whole.blocks(), resumed.blocks());
  ASSERT_EQ(whole.blocks().size(), 8u);
  for (const std::int64_t count : {std::int64_t{65536}, std::int64_t{70000}}) {
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += rows[static_cast<std::size_t>(2 * i + 1)];
    const double mean = sum / static_cast<double>(count);
    double squares = 0;
    for (std::int64_t i = 0; i < count; ++i) squares += std::pow(rows[static_cast<std::size_t>(2 * i + 1)] - mean, 2);
    EXPECT_NEAR(whole.of_leading(1, count).mean, mean, 1e-9 * mean);
    EXPECT_NEAR(whole.of_leading(1, count).squares, squares, 1e-9 * squares);
  }
  EXPECT_THROW(whole.of_leading(0, 100), std::invalid_argument);
}

TEST(BarRowsTest, PutTheBarsColumnsBeforeTheFeatures) {
  const BarRows plain({"volume", "vwap", "close", "open", "high", "low"}, {"log_return", "vwap", "close", "sma_3"},
                      "f");
  EXPECT_EQ(plain.columns(), (std::vector<std::string>{"open", "high", "low", "close", "volume", "vwap", "log_return",
                                                       "log_range", "sma_3"}));
  EXPECT_EQ(plain.warm_up(), 2u);
  const BarRows closes({"close"}, BarRows::default_features({"close"}), "f");
  EXPECT_EQ(closes.columns(), (std::vector<std::string>{"close", "log_return"}));
  const BarRows parts({"close"}, {"macd_3_6_4_signal", "macd_3_6_4"}, "f");
  EXPECT_EQ(parts.columns(), (std::vector<std::string>{"close", "log_return", "macd_3_6_4", "macd_3_6_4_signal",
                                                       "macd_3_6_4_histogram"}));
  EXPECT_EQ(BarRows({"x"}, {}, "f").warm_up(), 0u);
  EXPECT_NE(fault_of([] { BarRows({"close"}, {"atr_14"}, "f.csv"); }).find("f.csv: "), std::string::npos);
  EXPECT_NE(fault_of([] { BarRows({"close"}, {"no_feature"}, "f"); }).find("no_feature"), std::string::npos);
}

TEST(BarRowsTest, AreTheSameToTheBitInWhateverPortions) {
  const ColumnTable bars = read_csv(kPrices);
  const std::vector<std::string> features = {"rsi_14", "ema_10", "bollinger_20_2"};
  BarRows whole(bars.names, features, "f");
  std::vector<float> expected;
  std::vector<std::int64_t> times;
  whole.push(bars, expected, times);
  ASSERT_EQ(expected.size(), times.size() * whole.columns().size());
  ASSERT_EQ(times.size(), bars.size() - whole.warm_up());

  BarRows one_by_one(bars.names, features, "f");
  std::vector<float> rows;
  std::vector<std::int64_t> again;
  for (std::size_t i = 0; i < bars.size(); ++i) {
    ColumnTable bar{{bars.times[i]}, bars.names, {}};
    for (const auto& column : bars.values) bar.values.push_back({column[i]});
    one_by_one.push(bar, rows, again);
    if (i != 1000) continue;
    BarRows resumed(bars.names, features, "f");
    resumed.load_state(one_by_one.state());
    one_by_one = std::move(resumed);
  }
  EXPECT_EQ(rows, expected);
  EXPECT_EQ(again, times);
}

TEST(BarRowsTest, RefuseWhatFloat32CannotHold) {
  BarRows rows({"x"}, {}, "f.csv");
  std::vector<float> out;
  std::vector<std::int64_t> times;
  EXPECT_EQ(fault_of([&] {
              rows.push({{0, 60'000'000'000}, {"x"}, {{1, -1e39}}}, out, times);
            }).substr(0, 64),
            "f.csv: column 'x': expected a number that float32 can hold, got ");
}

TEST(ConvertTest, WritesWhatTheDirectorySaysOfItself) {
  const TempDir dir;
  const auto result = convert_csv(kPrices, dir.file("out"));
  EXPECT_EQ(result.directory, dir.file("out/sp500"));
  EXPECT_EQ(files_in(dir.file("out")), std::vector<std::string>{"sp500"});
  const auto meta = json::parse(read_text(result.directory + "/meta.json"));
  EXPECT_EQ(meta["format"], "torchfeed.rows");
  EXPECT_EQ(meta["version"], 1);
  EXPECT_EQ(meta["instrument"], "sp500");
  EXPECT_EQ(meta["source"], kPrices);
  EXPECT_EQ(meta["time_zone"], "UTC");
  EXPECT_EQ(meta["dtype"], "float32");
  EXPECT_EQ(meta["rows"], 5104);
  EXPECT_EQ(meta["bars"], 5105);
  EXPECT_EQ(meta["warm_up"], 1);
  EXPECT_EQ(meta["statistics_block"], 65536);
  EXPECT_EQ(meta["columns"], json({"open", "high", "low", "close", "volume", "adjclose", "log_return", "log_range",
                                   "log_volume_change", "log_close_open"}));

  const ColumnTable bars = read_csv(kPrices);
  BarRows bar_rows(bars.names, BarRows::default_features(bars.names), kPrices);
  std::vector<float> rows;
  std::vector<std::int64_t> times;
  bar_rows.push(bars, rows, times);
  EXPECT_EQ(numbers_in<float>(result.directory + "/rows.npy"), rows);
  EXPECT_EQ(numbers_in<std::int64_t>(result.directory + "/times.npy"), times);
  EXPECT_EQ(times[0], std::int64_t{10960} * 86400 * 1'000'000'000);
  RowStatistics statistics(10);
  statistics.add(rows);
  EXPECT_EQ(numbers_in<double>(result.directory + "/statistics.npy"), statistics.blocks());
  EXPECT_EQ(meta["scaling"]["close"]["mean"], statistics.of_leading(3, 5104).mean);
}

TEST(ConvertTest, AppendsToTheSameBitsAsAllAtOnce) {
  const TempDir dir;
  const std::vector<std::string> features = {"log_return", "rsi_14", "macd_12_26_9", "obv"};
  convert_csv(kPrices, dir.file("whole"), {.features = features, .instrument = "x"});
  // The second part begins with bars that are there already, as a download of the last month does.
  convert_csv(dir.write("first.csv", prices_between(0, 3000)), dir.file("parts"),
              {.features = features, .append = true, .instrument = "x"});
  const auto second = dir.write("second.csv", prices_between(2900, 6000));
  const auto result = convert_csv(second, dir.file("parts"), {.append = true, .instrument = "x"});
  EXPECT_EQ(result.new_rows, 2105);
  for (const auto& file : kFiles) {
    EXPECT_EQ(read_text(dir.file("whole/x/" + file)), read_text(dir.file("parts/x/" + file))) << file;
  }
  auto whole = json::parse(read_text(dir.file("whole/x/meta.json")));
  auto parts = json::parse(read_text(dir.file("parts/x/meta.json")));
  whole.erase("source");
  parts.erase("source");
  EXPECT_EQ(whole, parts);
  // Nothing new.
  struct stat before {
  }, after{};
  ::stat(dir.file("parts/x").c_str(), &before);
  EXPECT_EQ(convert_csv(second, dir.file("parts"), {.append = true, .instrument = "x"}).new_rows, 0);
  ::stat(dir.file("parts/x").c_str(), &after);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(files_in(dir.file("parts")), std::vector<std::string>{"x"});
}

TEST(ConvertTest, AppendsNothingToALastBarThatHasChanged) {
  const TempDir dir;
  const std::string out = dir.file("out");
  const auto append = [&](const std::string& text) {
    return convert_csv(dir.write("x.csv", text), out, {.append = true});
  };
  append("date,close,adj\n2020-01-02,1,1\n2020-01-03,2,2\n2020-01-06,3,3\n");
  EXPECT_EQ(fault_of([&] { append("date,close,adj\n2020-01-03,2,1\n2020-01-06,3,1.5\n2020-01-07,4,2\n"); }),
            dir.file("x.csv") + ": column 'adj': cannot append: expected 3 at 2020-01-06T00:00:00Z, as " + out +
                "/x has it, got 1.5 (convert anew)");
  EXPECT_EQ(files_in(out), std::vector<std::string>{"x"});
  // Bars that have come late are passed over, and counted.
  const auto result = append("date,close,adj\n2020-01-03,2,2\n2020-01-04,9,9\n2020-01-06,3,3\n2020-01-07,4,4\n");
  EXPECT_EQ(result.new_rows, 1);
  EXPECT_EQ(result.late_bars, 1u);
  EXPECT_EQ(result.rows, 3);
}

TEST(ConvertTest, CopiesNothingWhereNothingIsNew) {
  const TempDir dir;
  const auto path = dir.write("x.csv", prices_between(0, 100));
  convert_csv(path, dir.file("out"));
  bool copied = false;
  const ConvertOptions options{
      .append = true, .progress = [&](auto) { copied |= fs::exists(dir.file("out/.x.torchfeed-tmp/rows.npy")); }};
  EXPECT_EQ(convert_csv(path, dir.file("out"), options).new_rows, 0);
  EXPECT_FALSE(copied);
  dir.write("x.csv", prices_between(0, 101));
  EXPECT_EQ(convert_csv(path, dir.file("out"), options).new_rows, 1);
  EXPECT_TRUE(copied);
}

TEST(ConvertTest, AppendsWithTheOptionsOfTheDirectory) {
  const TempDir dir;
  const std::string out = dir.file("out");
  const auto path = dir.write("x.csv", "t;close;log_return\n1577957400000;2;7\n1577957460000;;8\n1577957520000;3;9\n");
  convert_csv(path, out,
              {.csv = {.time_column = "t",
                       .time_format = TimeFormat::kEpochMilliseconds,
                       .time_zone = "+05:30",
                       .missing = MissingValues::kForwardFill,
                       .delimiter = ';'}});
  // The vendor's log_return makes way for the feature: a hole in it is nobody's.
  dir.write("x.csv", "t;close;log_return\n1577957580000;;\n1577957640000;4;1\n");
  const auto result = convert_csv(path, out, {.append = true});
  EXPECT_EQ(result.new_rows, 2);
  EXPECT_EQ(result.dropped_rows, 0u);
  EXPECT_EQ(result.columns, (std::vector<std::string>{"close", "log_return"}));
  EXPECT_EQ(numbers_in<float>(out + "/x/rows.npy"), (std::vector<float>{2, 0, 3, static_cast<float>(std::log(1.5)), 3,
                                                                        0, 4, static_cast<float>(std::log(4. / 3))}));
  EXPECT_EQ(fault_of([&] { convert_csv(path, out, {.csv = {.time_zone = "UTC"}, .append = true}); }),
            out + "/x: cannot append: expected the time zone +05:30, got UTC");
}

TEST(ConvertTest, AppendsHalvesAcrossBlocksOfStatistics) {
  const TempDir dir;
  std::string text = "time,x\n";
  const auto add = [&](int begin, int end) {
    for (int i = begin; i < end; ++i) text += std::to_string(i) + ',' + std::to_string(i % 1000) + ".3\n";
    return dir.write("x.csv", text);
  };
  convert_csv(add(0, 66'000), dir.file("parts"), {.dtype = RowType::kFloat16});
  convert_csv(add(66'000, 140'000), dir.file("parts"), {.append = true});
  convert_csv(dir.file("x.csv"), dir.file("whole"), {.dtype = RowType::kFloat16});
  for (const auto& file : kFiles) {
    EXPECT_EQ(read_text(dir.file("whole/x/" + file)), read_text(dir.file("parts/x/" + file))) << file;
  }
  EXPECT_EQ(numbers_in<double>(dir.file("parts/x/statistics.npy")).size(), 3u * 2);
}

TEST(ConvertTest, AppendsFewerBarsThanTheWarmUp) {
  const TempDir dir;
  const std::vector<std::string> features = {"sma_50", "rsi_14"};
  convert_csv(dir.write("x.csv", prices_between(0, 300)), dir.file("whole"), {.features = features});
  convert_csv(dir.write("x.csv", prices_between(0, 298)), dir.file("parts"), {.features = features});
  for (const size_t end : {299, 300}) {
    EXPECT_EQ(
        convert_csv(dir.write("x.csv", prices_between(end - 1, end)), dir.file("parts"), {.append = true}).new_rows, 1);
  }
  for (const auto& file : kFiles) {
    EXPECT_EQ(read_text(dir.file("whole/x/" + file)), read_text(dir.file("parts/x/" + file))) << file;
  }
}

TEST(ConvertTest, TakesUncheckedPricesAsTheyAre) {
  const TempDir dir;
  const auto path =
      dir.write("x.csv", "date,close,volume\n2020-04-17,18.27,5\n2020-04-20,-37.63,-1\n2020-04-21,10,2\n");
  const auto result = convert_csv(path, dir.file("out"), {.csv = {.check_prices = false}});
  EXPECT_EQ(result.columns, (std::vector<std::string>{"close", "volume"}));
  EXPECT_EQ(result.rows, 3);
  EXPECT_EQ(numbers_in<float>(dir.file("out/x/rows.npy"))[2], -37.63f);
  EXPECT_EQ(
      fault_of([&] { convert_csv(path, dir.file("out"), {.features = {{"sma_2"}}, .csv = {.check_prices = false}}); }),
      path +
          ": features: expected a finite number above zero, got close -37.630000000000003 at bar 1, "
          "2020-04-20T00:00:00Z");
  dir.write("x.csv", "date,close,volume\n2020-04-22,-1,1\n");
  EXPECT_EQ(convert_csv(path, dir.file("out"), {.append = true}).new_rows, 1);
}

TEST(ConvertTest, RefusesFeaturesOfTheCalendarInOtherZones) {
  const TempDir dir;
  const auto path = dir.write("x.csv", prices_between(0, 10));
  for (const char* feature : {"day_of_week", "Month", "hour_of_day_sin"}) {
    EXPECT_NE(fault_of([&] {
                convert_csv(path, dir.file("out"), {.features = {{feature}}, .csv = {.time_zone = "+09:00"}});
              }).find("features: expected the time zone UTC for "),
              std::string::npos)
        << feature;
  }
  convert_csv(path, dir.file("out"), {.features = {{"day_of_week"}}, .csv = {.time_zone = "Z"}});
}

TEST(ConvertTest, RefusesNamesThatAreNotText) {
  const TempDir dir;
  const auto path = dir.write("x.csv", "date,close,pre\xE7o\n2020-01-02,1,1\n2020-01-03,2,2\n");
  EXPECT_EQ(fault_of([&] { convert_csv(path, dir.file("out")); }).substr(0, path.size() + 41),
            path + ": expected names of columns in UTF-8, got");
  convert_csv(path, dir.file("out"), {.csv = {.columns = {"close"}}});
}

TEST(ConvertTest, AppendsOnlyWhatFits) {
  const TempDir dir;
  const std::string out = dir.file("out");
  convert_csv(kPrices, out);
  const auto append = [&](ConvertOptions options, const std::string& path = kPrices) {
    options.append = true;
    options.instrument = "sp500";
    return fault_of([&] { convert_csv(path, out, options); });
  };
  EXPECT_EQ(append({.dtype = RowType::kBFloat16}),
            out + "/sp500: cannot append: expected the type float32, got bfloat16");
  EXPECT_EQ(append({.csv = {.time_zone = "+01:00"}}),
            out + "/sp500: cannot append: expected the time zone UTC, got +01:00");
  EXPECT_NE(append({.features = {{"rsi_14"}}}).find("cannot append: expected the columns open, high"),
            std::string::npos);
  EXPECT_NE(append({}, dir.write("y.csv", "date,close\n2030-01-02,1\n")).find("expected a header with the columns"),
            std::string::npos);
  EXPECT_EQ(append({}), "no error");
}

TEST(ConvertTest, WritesHalvesAndRefusesWhatTheyCannotHold) {
  const TempDir dir;
  const auto path =
      dir.write("x.csv", "date,close,volume\n2020-01-02,1.5,10\n2020-01-03,3.14159,20\n2020-01-04,2,7e4\n");
  EXPECT_EQ(fault_of([&] { convert_csv(path, dir.file("f16"), {.dtype = RowType::kFloat16}); }),
            path +
                ": column 'volume': expected a number that float16 can hold, got 70000.000000 at 2020-01-04T00:00:00Z "
                "(leave the column out, or take another type)");
  EXPECT_EQ(files_in(dir.file("f16")), std::vector<std::string>{});
  convert_csv(path, dir.file("f16"),
              {.features = std::vector<std::string>{}, .dtype = RowType::kFloat16, .csv = {.columns = {"close"}}});
  EXPECT_EQ(read_text(dir.file("f16/x/rows.npy")).substr(0, 128), NpyWriter::header("<f2", {2}, 2));
  EXPECT_EQ(numbers_in<std::uint16_t>(dir.file("f16/x/rows.npy"))[0], 0x4248);  // 3.140625
  EXPECT_NEAR(numbers_in<double>(dir.file("f16/x/statistics.npy"))[0], (3.140625 + 2) / 2, 1e-12);
  convert_csv(path, dir.file("bf16"), {.features = std::vector<std::string>{}, .dtype = RowType::kBFloat16});
  EXPECT_EQ(read_text(dir.file("bf16/x/rows.npy")).substr(0, 128), NpyWriter::header("<u2", {3}, 2));
  EXPECT_EQ(numbers_in<std::uint16_t>(dir.file("bf16/x/rows.npy"))[0], 0x4049);
  EXPECT_EQ(json::parse(read_text(dir.file("bf16/x/meta.json")))["dtype"], "bfloat16");
}

TEST(ConvertTest, LeavesWhatIsThereWhereItFails) {
  const TempDir dir;
  const std::string out = dir.file("out");
  convert_csv(dir.write("x.csv", prices_between(0, 100)), out);
  const std::string before = read_text(out + "/x/rows.npy");
  dir.write("x.csv", prices_between(0, 100) + "2019-01-01,1\n");
  EXPECT_EQ(fault_of([&] { convert_csv(dir.file("x.csv"), out); }),
            dir.file("x.csv") + ":102: expected 7 fields as in the header, got 2 (is the line cut off?)");
  EXPECT_EQ(fault_of([&] { convert_csv(dir.write("x.csv", prices_between(0, 1)), out); }),
            dir.file("x.csv") + ": expected more than 1 bars, which the features need to warm up, got 1");
  EXPECT_EQ(files_in(out), std::vector<std::string>{"x"});
  EXPECT_EQ(read_text(out + "/x/rows.npy"), before);
  // What convert has not made it does not replace.
  fs::create_directories(dir.file("own/x"));
  dir.write("own/x/notes.txt", "mine");
  dir.write("x.csv", prices_between(0, 100));
  EXPECT_EQ(fault_of([&] { convert_csv(dir.file("x.csv"), dir.file("own")); }),
            dir.file("own/x") + ": expected a directory that convert has made, or nothing there, got no meta.json");
  EXPECT_EQ(files_in(dir.file("own/x")), std::vector<std::string>{"notes.txt"});
}

TEST(ConvertTest, IsTheOnlyOneToWriteAPlace) {
  const TempDir dir;
  const converted::StagedDirectory other(dir.path(), "sp500");
  EXPECT_EQ(fault_of([&] { convert_csv(kPrices, dir.path()); }),
            dir.file("sp500") + ": another conversion is writing it");
  remove_interrupted_conversions(dir.path());
  EXPECT_TRUE(fs::exists(other.path())) << "it is under way";
}

TEST(ConvertTest, HoldsItsPlaceUntilTheOldDirectoryIsGone) {
  const TempDir dir;
  fs::create_directories(dir.file("x"));
  dir.write("x/old", "");
  {
    converted::StagedDirectory first(dir.path(), "x");
    converted::write_file(first.path() / "new", "");
    first.commit();
    // Where the new directory was before, the old one may still be.
    EXPECT_EQ(fault_of([&] { converted::StagedDirectory(dir.path(), "x"); }),
              dir.file("x") + ": another conversion is writing it");
  }
  const converted::StagedDirectory next(dir.path(), "x");
  EXPECT_EQ(files_in(dir.file("x")), std::vector<std::string>{"new"});
}

TEST(ConvertTest, IsNotInTheWayOfAnotherThatClearsUp) {
  const TempDir dir;
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended) remove_interrupted_conversions(dir.path());
  });
  std::string fault = "no error";
  for (int i = 0; i < 300 && fault == "no error"; ++i) {
    // What an interrupted run has left is in both's way.
    fs::create_directories(dir.file(".x.torchfeed-tmp"));
    fault = fault_of([&] {
      const converted::StagedDirectory staged(dir.path(), "x");
      converted::write_file(staged.path() / "file", "text");
    });
  }
  ended = true;
  other.join();
  EXPECT_EQ(fault, "no error");
  remove_interrupted_conversions(dir.path());
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{});
}

TEST(ConvertTest, RemovesWhatAnInterruptedRunHasWritten) {
  const TempDir dir;
  fs::create_directories(dir.file(".x.torchfeed-tmp/deep"));
  dir.write(".x.torchfeed-tmp/rows.npy", "half");
  const converted::StagedDirectory staged(dir.path(), "x");
  EXPECT_TRUE(fs::is_empty(staged.path()));
}

TEST(ConvertTest, FollowsNoLinkThatHasATemporaryName) {
  const TempDir dir;
  fs::create_directories(dir.file("mine"));
  dir.write("mine/notes.txt", "");
  fs::create_directory_symlink(dir.file("mine"), dir.file(".x.torchfeed-tmp"));
  remove_interrupted_conversions(dir.path());
  EXPECT_NE(fault_of([&] { converted::StagedDirectory(dir.path(), "x"); }).find("torchfeed-tmp"), std::string::npos);
  EXPECT_EQ(files_in(dir.file("mine")), std::vector<std::string>{"notes.txt"});
}

TEST(ConvertTest, NamesInstrumentsByTheirFiles) {
  EXPECT_EQ(instrument_of("data/AAPL.csv"), "AAPL");
  EXPECT_EQ(instrument_of("BRK.B.CSV.GZ"), "BRK.B");
  EXPECT_EQ(instrument_of("x"), "x");
}

}  // namespace
}  // namespace torchfeed::datasets
