#include <fcntl.h>
#include <torchfeed/datasets/csv/csv_block.h>
#include <torchfeed/datasets/csv/csv_plan.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <unistd.h>
#include <zlib.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fuzz/csv_fuzz.h"
#include "support/program_run.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"

namespace torchfeed::datasets {
namespace {

using testing::TempDir;

constexpr std::int64_t kSecond = 1'000'000'000;
// 2020-01-02T09:30:00Z
constexpr std::int64_t kMorning = 1'577'957'400 * kSecond;
constexpr std::int64_t kDay = 86400 * kSecond;
constexpr std::int64_t kMidnight = kMorning - 34200 * kSecond;

const std::string kHeader = "date,open,high,low,close,volume\n";

ColumnTable read(CsvReader reader) {
  ColumnTable all;
  all.names = reader.columns();
  all.values.resize(all.names.size());
  while (const auto table = reader.next()) {
    EXPECT_EQ(table->names, all.names);
    all.times.insert(all.times.end(), table->times.begin(), table->times.end());
    for (size_t c = 0; c < all.values.size(); ++c) {
      all.values[c].insert(all.values[c].end(), table->values[c].begin(), table->values[c].end());
    }
  }
  return all;
}

ColumnTable read(const std::string& text, const CsvOptions& options = {}) {
  return read(CsvReader::from_text(text, "bars.csv", options));
}

template <typename Read>
std::string fault_of(Read reading) {
  try {
    reading();
  } catch (const DataError& error) {
    return error.what();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

std::string fault_in(const std::string& text, const CsvOptions& options = {}) {
  return fault_of([&] { read(text, options); });
}

/// Minute bars that differ, one a line.
std::string minute_bars(size_t bars) {
  std::mt19937 random(7);
  std::ostringstream text;
  text << "time,open,high,low,close,volume\n";
  for (size_t i = 0; i < bars; ++i) {
    const double price = 100 + static_cast<double>(random() % 10000) / 100;
    text << 1'577'957'400 + 60 * i << ',' << price << ',' << price + 1 << ',' << price - 1 << ',' << price + 0.25 << ','
         << random() % 100000 << '\n';
  }
  return text.str();
}

std::string gzip(const std::string& text) {
  z_stream zlib{};
  EXPECT_EQ(deflateInit2(&zlib, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&zlib, text.size()), '\0');
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  zlib.avail_in = static_cast<uInt>(text.size());
  zlib.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&zlib, Z_FINISH), Z_STREAM_END);
  out.resize(zlib.total_out);
  deflateEnd(&zlib);
  return out;
}

void expect_same(const ColumnTable& a, const ColumnTable& b) {
  EXPECT_EQ(a.names, b.names);
  EXPECT_EQ(a.times, b.times);
  EXPECT_EQ(a.values, b.values);
}

TEST(CsvBlocksTest, ReadsAllColumnsThatHoldNumbers) {
  auto reader = CsvReader::from_text(
      "Symbol,Date,Close,Note,VWAP,,empty,Dividend\n"
      "SPY,2020-01-02,10.5,text,10.25,0,,\n"
      "SPY,2020-01-03,11,7,10.75,1,,\n",
      "bars.csv", {.missing = MissingValues::kError});
  EXPECT_EQ(reader.columns(), (std::vector<std::string>{"close", "vwap"}));
  EXPECT_EQ(reader.time_column(), "date");
  EXPECT_EQ(reader.skipped_columns(), (std::vector<std::string>{"Symbol", "Note", "", "empty", "Dividend"}));
  const auto table = read(std::move(reader));
  EXPECT_EQ(table.times, (std::vector<std::int64_t>{kMidnight, kMidnight + kDay}));
  EXPECT_EQ(table.values[*table.find("vwap")], (std::vector<double>{10.25, 10.75}));
  EXPECT_FALSE(table.find("Symbol"));
}

TEST(CsvBlocksTest, GivesTheColumnsThatAreAskedForInTheirOrder) {
  const auto table = read("date,a,b,c\n2020-01-02,1,2,3\n", {.columns = {"C", "a"}});
  EXPECT_EQ(table.names, (std::vector<std::string>{"c", "a"}));
  EXPECT_EQ(table.values, (std::vector<std::vector<double>>{{3}, {1}}));
  EXPECT_EQ(fault_in("date,a\n2020-01-02,1\n", {.columns = {"a", "x", "y"}}),
            "bars.csv:1: expected a header with the columns 'x', 'y' too, got 'date', 'a'");
}

TEST(CsvBlocksTest, FindsHowTimesAreWritten) {
  const std::vector<std::pair<std::string, std::int64_t>> times = {
      {"2020-01-02", kMidnight},
      {"20200102", kMidnight},
      {"2020-01-02T09:30:00Z", kMorning},
      {"2020-01-02 09:30", kMorning},
      {"2020-01-02T11:30:00+02:00", kMorning},
      {"2020-01-02 04:30:00-0500", kMorning},
      {"2020-01-02T04:30:00-05", kMorning},
      {"2020-01-02 09:30:00 UTC", kMorning},
      {"2020-01-02T09:30:00.25Z", kMorning + kSecond / 4},
      {"2020-01-02T09:30:00,000000001", kMorning + 1},
      {"2020-01-02T09:30:00.1234567899Z", kMorning + 123456789},
      {"1577957400", kMorning},
      {"1577957400.5", kMorning + kSecond / 2},
      {"1577957400123", kMorning + 123'000'000},
      {"1577957400123456", kMorning + 123'456'000},
      {"1577957400123456789", kMorning + 123'456'789},
      {"94694400000", 1096 * kDay},  // 1973-01-01 in ms: as seconds a year that ns do not reach
      {"-86400", -kDay},
      {"0", 0},
      {"1677-09-22", -106751 * kDay},
      {"2262-04-10T23:59:59.999999999-18:00", 106750 * kDay + kDay - 1 + 18 * 3600 * kSecond},
  };
  for (const auto& [written, ns] : times) {
    EXPECT_EQ(read("time,x\n\"" + written + "\",1\n").times, std::vector<std::int64_t>{ns}) << written;
  }
  for (const char* written : {"2020-02-30", "2020-01-02T24:00", "2020-01-02T09:60", "2020-01-02T09:30:60",
                              "2020-01-02T9:30", "2020-01-02T09:30:00.", "2020-01-02T09:30:00+19:00", "02/01/2020",
                              "1e9", "12345678901234567890", "1677-09-21", "2262-04-11", "2020-01-02T09:30:00Zulu"}) {
    EXPECT_NE(fault_in("time,x\n" + std::string(written) + ",1\n").find("bars.csv:2: column 'time': expected "),
              std::string::npos)
        << written;
  }
}

TEST(CsvBlocksTest, TakesTimesWithoutAZoneToBeInTheOnesGiven) {
  const CsvOptions east{.time_zone = "+05:30"};
  EXPECT_EQ(read("date,x\n2020-01-02T15:00,1\n", east).times[0], kMorning);
  EXPECT_EQ(read("date,x\n2020-01-02T09:30Z,1\n", east).times[0], kMorning);
  EXPECT_EQ(read("date,x\n2020-01-02,1\n", east).times[0], kMidnight - 19800 * kSecond);
  EXPECT_EQ(read("date,x\n1577957400,1\n", east).times[0], kMorning);
}

TEST(CsvBlocksTest, SaysOfEachFormatWhatItExpects) {
  EXPECT_EQ(fault_in("time,x\n2020-01-02T09:30Z,1\n2020-01-02T09:61Z,1\n"),
            "bars.csv:3: column 'time': expected a date and time that exist, as 2010-02-28T09:30:00Z, got "
            "'2020-01-02T09:61Z'");
  EXPECT_EQ(fault_in("time,x\n2020-01-02T09:30Z,1\n2020-01-02T09:30Z,1\n"),
            "bars.csv:3: column 'time': expected a time after 2020-01-02T09:30:00Z of line 2, got '2020-01-02T09:30Z'");
  EXPECT_EQ(fault_in("time,x\n1577957400000,1\n\n1577957399999,1\n"),
            "bars.csv:4: column 'time': expected a time after 1577957400000 of line 2, got '1577957399999'");
  EXPECT_EQ(fault_in("time,x\nnoon,1\n"),
            "bars.csv:2: column 'time': expected a time as 2010-02-28, 2010-02-28T09:30:00Z or 1267349400, got 'noon'");
  EXPECT_EQ(
      fault_in("day,x\n1,1\n"),
      "bars.csv:1: expected a header with the columns 'date' (or 'time', 'datetime', 'timestamp') too, got 'day', "
      "'x'");
  EXPECT_EQ(read("day,x\n1,1\n", {.time_column = "Day"}).times[0], kSecond);
}

TEST(CsvBlocksTest, TreatsMissingValuesByPolicy) {
  const std::string text = "date,a,b\n2020-01-02,,1\n2020-01-03,2,n/a\n2020-01-04,NaN,3\n2020-01-05,4,5\n";
  EXPECT_EQ(fault_in(text), "bars.csv:2: column 'a': expected a number, got an empty field");
  for (const size_t block_bytes : {size_t{1}, size_t{1} << 20}) {
    auto dropping = CsvReader::from_text(text, "f", {.missing = MissingValues::kDrop, .block_bytes = block_bytes});
    EXPECT_EQ(dropping.next()->values, (std::vector<std::vector<double>>{{4}, {5}}));
    EXPECT_EQ(dropping.dropped_rows(), 3u);
    const CsvOptions fill{.missing = MissingValues::kForwardFill, .block_bytes = block_bytes};
    EXPECT_EQ(read("date,a,b\n2020-01-02,,1\n2020-01-03,2,n/a\n2020-01-04,NaN,3\n", fill).values,
              (std::vector<std::vector<double>>{{2, 2}, {1, 3}}));
  }
  EXPECT_EQ(fault_in(text, {.columns = {"a"}, .missing = MissingValues::kDrop}), "no error");
  EXPECT_EQ(fault_in("date,a\n2020-01-02,null\n", {.columns = {"a"}, .missing = MissingValues::kDrop}),
            "bars.csv: expected bars after the header line, got none that is complete (1 left out)");
  EXPECT_EQ(fault_in("date,a\n2020-01-02,1\n,2\n", {.missing = MissingValues::kForwardFill}),
            "bars.csv:3: column 'date': expected a date that exists, as YYYY-MM-DD, got an empty field");
}

TEST(CsvBlocksTest, FillsFromTheRowBeforeTheFile) {
  auto reader = CsvReader::from_text("date,a,b\n2020-01-02,,1\n", "f",
                                     {.columns = {"a", "b"}, .missing = MissingValues::kForwardFill});
  reader.set_last_values({7, 8}, 0);
  EXPECT_EQ(reader.next()->values, (std::vector<std::vector<double>>{{7}, {1}}));
  EXPECT_EQ(reader.filled_values(), 1u);
}

TEST(CsvBlocksTest, ChecksPricesAgainOnceTheyAreFilled) {
  // The fault comes before that of a line behind it, whatever the blocks.
  const std::string text =
      "date,high,low\n2020-01-02,2,1\n\n2020-01-03,,1\n2020-01-06,,2.5\n2020-01-07,3,n/a\n2020-01-08,x,1\n";
  for (const size_t block_bytes : {size_t{1}, size_t{1} << 20}) {
    EXPECT_EQ(
        fault_in(text, {.missing = MissingValues::kForwardFill, .block_bytes = block_bytes}),
        "bars.csv:5: column 'high': expected a high not below the low once the missing one is filled, got 2 below "
        "2.5");
  }
  EXPECT_NE(fault_in(text, {.missing = MissingValues::kForwardFill, .check_prices = false}).find("bars.csv:7: "),
            std::string::npos);
  // Values of a bar that is later than the row that they fill say nothing of it.
  auto reader = CsvReader::from_text("date,high,low\n2020-01-02,,2.5\n2020-01-03,2,1\n2020-01-06,2,1\n", "f",
                                     {.missing = MissingValues::kForwardFill});
  reader.set_last_values({2, 1}, kMidnight + kDay);
  EXPECT_EQ(reader.next()->size(), 3u);
}

TEST(CsvBlocksTest, LooksForAHeaderInTheFirstMegabyteAlone) {
  EXPECT_EQ(fault_in(std::string(2 << 20, '\n') + "date,x\n2020-01-02,1\n"),
            "bars.csv: expected a header line in the first 1048576 bytes, got empty lines");
  EXPECT_EQ(read(std::string(1000 << 10, '\n') + "date,x\n2020-01-02,1\n").values[0][0], 1);
}

TEST(CsvBlocksTest, MakesNoRoomForRowsThatEmptyLinesCannotHold) {
  std::string header = "date";
  std::string row = "2020-01-02";
  for (int i = 0; i < 2000; ++i) header += ",c" + std::to_string(i), row += ",1";
  const std::string text = header + '\n' + row + '\n' + std::string(1 << 20, '\n') + "2020-01-03" + row.substr(10);
  const auto planned = csv::plan_csv(text, /*whole=*/true, "f", {});
  csv::BlockParser parser(planned->plan);
  // A column of doubles for each of a million lines would be 16 GB.
  const auto block = parser.parse(std::string_view(text).substr(planned->header.bytes));
  EXPECT_EQ(block.times.size(), 2u);
  EXPECT_LT(block.values.back().capacity(), 1000u);
}

TEST(CsvBlocksTest, TakesOtherDelimitersAndUncheckedPrices) {
  EXPECT_EQ(read("date;x\n2020-01-02; 1 \n", {.delimiter = ';'}).values[0][0], 1);
  EXPECT_EQ(read("date\tx\ty\n2020-01-02\t1\t2\n", {.delimiter = '\t'}).values[1][0], 2);
  EXPECT_EQ(read("date,close\n2020-01-02,-37.63\n", {.check_prices = false}).values[0][0], -37.63);
  EXPECT_EQ(fault_in("date,close\n2020-01-02,-37.63\n"),
            "bars.csv:2: column 'close': expected a price above 0, got '-37.63'");
}

TEST(CsvBlocksTest, RefusesOptionsOutOfRange) {
  const std::string text = "date,x\n2020-01-02,1\n";
  EXPECT_EQ(fault_in(text, {.threads = 0}), "CsvOptions: threads: expected 1 to 256, got 0");
  EXPECT_EQ(fault_in(text, {.block_bytes = 0}), "CsvOptions: block_bytes: expected 1 to 1073741824, got 0");
  EXPECT_EQ(fault_in(text, {.time_zone = "Mars"}),
            "CsvOptions: time_zone: expected UTC or an offset of at most 18 hours, as +05:30, got 'Mars'");
  EXPECT_EQ(fault_in(text, {.delimiter = '1'}),
            "CsvOptions: delimiter: expected a printable character or tab that no number, name or quote has, got '1'");
  EXPECT_EQ(fault_in(text, {.columns = {"x", "X"}}), "CsvOptions: columns: expected each name once, got 'X' twice");
  EXPECT_EQ(fault_in(text, {.columns = {"date"}}),
            "CsvOptions: columns: expected columns of numbers, got that of the times, 'date'");
}

TEST(CsvBlocksTest, GivesTheSameRowsWhateverTheThreadsAndBlocks) {
  const std::string text = minute_bars(3000);
  const auto expected = read(text);
  ASSERT_EQ(expected.size(), 3000u);
  for (const int threads : {1, 2, 5}) {
    for (const size_t block_bytes : {size_t{1}, size_t{100}, size_t{10000}}) {
      expect_same(read(text, {.threads = threads, .block_bytes = block_bytes}), expected);
    }
  }
}

// Of several faults the one in the earliest line is told, with that line's number.
TEST(CsvBlocksTest, GivesTheSameErrorWhateverTheThreadsAndBlocks) {
  std::vector<std::string> lines;
  std::istringstream text(minute_bars(400));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  std::mt19937 random(3);
  const std::vector<std::string> faults = {
      "1577957400,1,2,1,2,3", "1,x", "1577999999,1,2,1,x,3", "\"", "\x01", std::string(70000, '7'),
      "1678957400,1,2,1,-2,3"};
  for (int round = 0; round < 30; ++round) {
    auto changed = lines;
    for (int i = 0; i < 3; ++i) changed[2 + random() % (lines.size() - 2)] = faults[random() % faults.size()];
    std::string all;
    for (const auto& line : changed) all += line + (random() % 4 == 0 ? "\r\n" : "\n");
    const auto expected = fault_in(all);
    EXPECT_NE(expected.find("bars.csv:"), std::string::npos) << expected;
    for (const int threads : {1, 3}) {
      for (const size_t block_bytes : {size_t{1}, size_t{300}, size_t{4096}}) {
        EXPECT_EQ(fault_in(all, {.threads = threads, .block_bytes = block_bytes}), expected);
      }
    }
  }
}

TEST(CsvBlocksTest, ReadsPlainLinesAsItReadsOthers) {
  const std::string text =
      "date,open,high,low,close,volume,note\n2020-01-02,10.5,12,9.25,11,1000,plain\n"
      "2020-01-03,1e1,12,9,0.1e2,0,x\n2020-01-04,9.007199254740993e15,1e300,5e-310,1e-300,0.000,\n"
      "2020-01-05,.5,5.,0.5,123456789012345678901234567890,00,z\n2020-01-06,+1,2,1,2,3,\"q\"\n";
  const auto planned = csv::plan_csv(text, true, "f", {});
  ASSERT_TRUE(planned);
  const auto rows = text.substr(planned->header.bytes);
  const auto plain = csv::BlockParser(planned->plan).parse(rows);
  const auto careful = csv::BlockParser(planned->plan, /*careful=*/true).parse(rows);
  EXPECT_EQ(plain.times.size(), 5u) << (plain.fault ? plain.fault->fault.message : "");
  EXPECT_EQ(plain.times, careful.times);
  EXPECT_EQ(plain.values, careful.values);
}

TEST(CsvBlocksTest, ReadsGzipWhateverItsName) {
  const TempDir dir;
  const std::string text = minute_bars(5000);
  const auto expected = read(text);
  // In members one after the other, as `cat` makes them, and zeros behind, as tapes do.
  const size_t middle = text.find('\n', text.size() / 2) - 3;
  const std::string packed = gzip(text.substr(0, middle)) + gzip(text.substr(middle));
  for (const auto& bytes : {gzip(text), packed, packed + std::string(512, '\0')}) {
    const auto path = dir.write("bars.dat", bytes);
    for (const int threads : {1, 2}) {
      CsvReader reader(path, {.threads = threads, .block_bytes = 1000});
      EXPECT_EQ(reader.bytes_total(), bytes.size());
      expect_same(read(std::move(reader)), expected);
    }
  }
}

TEST(CsvBlocksTest, SaysThatAGzipFileIsDamaged) {
  const TempDir dir;
  const std::string packed = gzip(minute_bars(5000));
  const auto fault = [&](const std::string& bytes) {
    const auto path = dir.write("bars.csv.gz", bytes);
    const auto message = fault_of([&] { read_csv(path); });
    return message.substr(std::min(message.size(), path.size()));
  };
  EXPECT_EQ(fault(packed.substr(0, packed.size() / 2)), ": expected a whole gzip file, got one that is cut off");
  EXPECT_EQ(fault(packed + "text"), ": expected a whole gzip file, got one that is followed by something else");
  std::string changed = packed;
  changed[changed.size() - 6] = static_cast<char>(changed[changed.size() - 6] ^ 1);
  EXPECT_EQ(fault(changed), ": expected a whole gzip file, got one that is damaged (incorrect data check)");
}

TEST(CsvBlocksTest, ReadsPipes) {
  for (const bool packed : {false, true}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const std::string text = minute_bars(500);
    const std::string bytes = packed ? gzip(text) : text;
    ASSERT_EQ(::write(ends[1], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    ::close(ends[1]);
    CsvReader reader("/dev/fd/" + std::to_string(ends[0]), {.threads = 2, .block_bytes = 700});
    ::close(ends[0]);
    EXPECT_EQ(reader.bytes_total(), 0u);
    expect_same(read(std::move(reader)), read(text));
  }
}

TEST(CsvBlocksTest, SaysThatAFileWasCutWhileItWasRead) {
  const TempDir dir;
  const auto path = dir.write("bars.csv", minute_bars(40000));
  CsvReader reader(path);
  ASSERT_TRUE(reader.next());
  std::filesystem::resize_file(path, 1'100'000);
  EXPECT_NE(fault_of([&] {
              while (reader.next()) {
              }
            }).find("expected a file that stays as it is, got one that was cut from"),
            std::string::npos);
}

std::size_t resident_bytes() {
  std::istringstream statm(testing::read_text("/proc/self/statm"));
  std::size_t pages = 0;
  statm >> pages >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(CsvBlocksTest, KeepsMemorySmallWhateverTheFile) {
  if (testing::kSanitized) GTEST_SKIP() << "sanitizers keep memory that was given back";
  const TempDir dir;
  std::string bytes = "time,x\n";
  for (int i = 0; bytes.size() < (std::size_t{96} << 20); ++i) bytes += std::to_string(1'500'000'000 + i) + ",1.25\n";
  const auto path = dir.write("bars.csv", bytes);
  bytes = {};
  bytes.shrink_to_fit();
  CsvReader reader(path, {.threads = 2});
  const std::size_t before = resident_bytes();
  std::size_t most = before;
  while (reader.next()) most = std::max(most, resident_bytes());
  EXPECT_LT(most - before, std::size_t{32} << 20);
  EXPECT_EQ(reader.bytes_read(), reader.bytes_total());
}

TEST(CsvBlocksTest, DoesOtherWorkInTheThreadsThatParse) {
  const std::string text = minute_bars(5000);
  for (const int threads : {1, 3}) {
    auto reader = CsvReader::from_text(text, "f", {.threads = threads, .block_bytes = 1000});
    std::mutex mutex;
    std::set<std::thread::id> workers;
    std::vector<std::future<void>> works;
    std::atomic<std::size_t> rows = 0;
    while (const auto table = reader.next()) {
      works.push_back(reader.async([&, count = table->size()] {
        rows += count;
        const std::lock_guard lock(mutex);
        workers.insert(std::this_thread::get_id());
      }));
    }
    works.push_back(reader.async([] { throw 7; }));
    for (const auto& work : works) reader.wait(work);
    EXPECT_EQ(rows, 5000u);
    EXPECT_LE(workers.size(), static_cast<std::size_t>(threads));
    EXPECT_THROW(works.back().get(), int);
  }
}

TEST(CsvBlocksTest, DoesOtherWorkBesideTheCaller) {
  const std::string text = minute_bars(10);
  auto reader = CsvReader::from_text(text, "f", {.threads = 3});
  EXPECT_TRUE(reader.next());
  // Two works that wait for each other are two other threads', as the caller is not in `next` or `wait`.
  std::array<std::promise<std::thread::id>, 2> here;
  const std::array there = {here[1].get_future().share(), here[0].get_future().share()};
  std::vector<std::future<void>> works;
  for (std::size_t i = 0; i < 2; ++i) {
    works.push_back(reader.async([&, i] {
      here[i].set_value(std::this_thread::get_id());
      there[i].wait_for(std::chrono::minutes(1));
    }));
  }
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(there[i].wait_for(std::chrono::minutes(1)), std::future_status::ready);
    EXPECT_NE(there[i].get(), std::this_thread::get_id());
  }
  EXPECT_NE(there[0].get(), there[1].get());
  for (const auto& work : works) reader.wait(work);
}

TEST(CsvBlocksTest, StopsItsThreadsInTheMiddle) {
  const std::string text = minute_bars(20000);
  for (int i = 0; i < 20; ++i) {
    auto reader = CsvReader::from_text(text, "f", {.threads = 3, .block_bytes = 1000});
    EXPECT_TRUE(reader.next());
  }
}

TEST(CsvBlocksTest, ReadsTheFuzzersSeedsInAllWaysAlike) {
  size_t seeds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TORCHFEED_FUZZ_SEEDS)) {
    const auto bytes = testing::read_text(entry.path().string());
    SCOPED_TRACE(entry.path().string());
    // Ends the process if they differ, naming what.
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    ++seeds;
  }
  EXPECT_GT(seeds, 10u);
}

}  // namespace
}  // namespace torchfeed::datasets
