#include "support/temp_dir.h"

#include <torchfeed/datasets/csv_reader.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/iso_date.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace torchfeed::datasets {
namespace {

using torchfeed::testing::TempDir;

const std::string kHeader = "date,open,high,low,close,volume\n";
const std::string kFirstBar = "2000-01-03,10,12,9,11,1000\n";

PriceTable parse(const std::string& text) { return parse_prices(text, "prices.csv"); }

// The message of the DataError that `text` gives, which must be one line.
std::string fault_in(const std::string& text) {
  try {
    parse(text);
  } catch (const DataError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

// The same for a bar on line 3, after a good one.
std::string fault_in_bar(const std::string& bar) { return fault_in(kHeader + kFirstBar + bar + "\n"); }

std::string fault_in_file(const std::string& path) {
  try {
    read_prices(path);
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

void expect_two_bars(const PriceTable& table) {
  ASSERT_EQ(table.size(), 2u);
  EXPECT_EQ(table.date, (std::vector<int32_t>{10959, 10960}));
  EXPECT_EQ(table.open, (std::vector<double>{10.5, 11}));
  EXPECT_EQ(table.high, (std::vector<double>{12, 13}));
  EXPECT_EQ(table.low, (std::vector<double>{9.25, 10}));
  EXPECT_EQ(table.close, (std::vector<double>{11, 12.5}));
  EXPECT_EQ(table.volume, (std::vector<double>{1000, 0}));
}

TEST(CsvReaderTest, ReadsColumnsByNameInTheirUsualOrder) {
  expect_two_bars(
      parse("date,open,high,low,close,volume\n"
            "2000-01-03,10.5,12,9.25,11,1000\n"
            "2000-01-04,11,13,10,12.5,0\n"));
}

TEST(CsvReaderTest, ReadsColumnsInAnyOrderAndCaseAndPassesOverOthers) {
  expect_two_bars(
      parse("Volume,Note,CLOSE,Low,High,Open,Adj Close,Date\n"
            "1000,text,11,9.25,12,10.5,,2000-01-03\n"
            "0,nan,12.5,10,13,11,x,2000-01-04\n"));
}

TEST(CsvReaderTest, AcceptsCrlfAByteOrderMarkEmptyLinesAndNoLastLineEnd) {
  expect_two_bars(
      parse("\xEF\xBB\xBF"
            "date,open,high,low,close,volume\r\n"
            "2000-01-03,10.5,12,9.25,11,1000\r\n"
            "\r\n"
            "\n"
            "2000-01-04,11,13,10,12.5,0"));
}

TEST(CsvReaderTest, AcceptsQuotesAndBlanksAroundFields) {
  expect_two_bars(
      parse("\"date\", \"open\" ,\"high\",low,close,\"volume\",\"name, of \"\"it\"\"\"\n"
            "\"2000-01-03\",10.5,\"12\", 9.25 ,11,\" 1000\",\"a, b\"\n"
            "2000-01-04,\t11,13,10,+12.5,0,\"\"\n"));
}

TEST(CsvReaderTest, ReadsNumbersToTheNearestDouble) {
  const PriceTable table = parse(kHeader + "2000-01-03,1438.359985,1.5e3,0.1,1455.219971,9.3180000000000001e8\n");
  EXPECT_EQ(table.open[0], 1438.359985);
  EXPECT_EQ(table.high[0], 1500.0);
  EXPECT_EQ(table.low[0], 0.1);
  EXPECT_EQ(table.close[0], 1455.219971);
  EXPECT_EQ(table.volume[0], 931800000.0);
}

TEST(CsvReaderTest, AcceptsOpenAndCloseBesideTheRangeAsVendorsRoundColumnsOneByOne) {
  EXPECT_EQ(parse(kHeader + "2000-01-03,12.01,12,9,8.99,1000\n").size(), 1u);
}

TEST(CsvReaderTest, ReadsTheFileThatComesWithTorchfeed) {
  const std::string path = TORCHFEED_DATA_DIR "/sp500.csv";
  const PriceTable table = read_prices(path);
  ASSERT_EQ(table.size(), 5105u);
  EXPECT_EQ(format_iso_date(table.date.front()), "2000-01-03");
  EXPECT_EQ(format_iso_date(table.date.back()), "2020-04-17");
  EXPECT_EQ(table.open.front(), 1469.25);
  EXPECT_EQ(table.close.back(), 2874.560059);
  EXPECT_EQ(table.volume.back(), 5792140000.0);
  for (const auto* column : {&table.open, &table.high, &table.low, &table.close, &table.volume}) {
    EXPECT_EQ(column->size(), table.size());
  }
}

TEST(CsvReaderTest, SaysThatAFileIsMissing) {
  const TempDir dir;
  const std::string path = dir.file("none.csv");
  EXPECT_EQ(fault_in_file(path), path + ": expected a readable CSV file, got: No such file or directory");
}

TEST(CsvReaderTest, SaysThatAPathIsADirectory) {
  const TempDir dir;
  EXPECT_EQ(fault_in_file(dir.path()), dir.path() + ": expected a CSV file, got a directory");
}

TEST(CsvReaderTest, NamesTheFileInMessagesOfItsContent) {
  const TempDir dir;
  const std::string path = dir.write("p.csv", kHeader + "2000-01-03,10,12,9,n/a,1000\n");
  EXPECT_EQ(fault_in_file(path), path + ":2: column 'close': expected a number, got 'n/a'");
}

TEST(CsvReaderTest, SaysThatAFileIsEmpty) {
  EXPECT_EQ(fault_in(""), "prices.csv: expected a header line, got an empty file");
  EXPECT_EQ(fault_in("\xEF\xBB\xBF\r\n\n"), "prices.csv: expected a header line, got an empty file");
}

TEST(CsvReaderTest, SaysThatAFileHasAHeaderAlone) {
  EXPECT_EQ(fault_in(kHeader), "prices.csv: expected bars after the header line, got none");
}

TEST(CsvReaderTest, SaysWhichColumnsAreMissingAndWhichAreThere) {
  EXPECT_EQ(fault_in("Date,open,high,low,adjclose\n2000-01-03,1,1,1,1\n"),
            "prices.csv:1: expected a header with the columns 'close', 'volume' too, got 'Date', 'open', 'high', "
            "'low', 'adjclose'");
}

TEST(CsvReaderTest, ListsNoEndlessHeader) {
  std::string header = "date";
  for (int i = 0; i < 20; ++i) header += ",c" + std::to_string(i);
  const std::string message = fault_in(header + "\n");
  EXPECT_NE(message.find("'c14' and 5 more"), std::string::npos) << message;
}

TEST(CsvReaderTest, SaysThatAColumnIsThereTwice) {
  EXPECT_EQ(fault_in("date,open,high,low,close,volume,Close\n"),
            "prices.csv:1: expected each column once, got 'close' as fields 5 and 7");
}

TEST(CsvReaderTest, SaysThatALineIsCutOff) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12"),
            "prices.csv:3: expected 6 fields as in the header, got 3 (is the line cut off?)");
}

TEST(CsvReaderTest, SaysThatALineHasTooManyFields) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,11,1000,5"), "prices.csv:3: expected 6 fields as in the header, got 7");
}

TEST(CsvReaderTest, CountsEmptyLinesInLineNumbers) {
  EXPECT_EQ(fault_in(kHeader + "\n\n" + kFirstBar + "2000-01-04,x,12,9,11,1000\n"),
            "prices.csv:5: column 'open': expected a number, got 'x'");
}

TEST(CsvReaderTest, SaysWhereTextStandsInPlaceOfANumber) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,twelve,9,11,1000"),
            "prices.csv:3: column 'high': expected a number, got 'twelve'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,11,1000 shares"),
            "prices.csv:3: column 'volume': expected a number, got '1000 shares'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,11,\"1,000\""),
            "prices.csv:3: column 'volume': expected a number, got '1,000'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,+-9,11,1000"), "prices.csv:3: column 'low': expected a number, got '+-9'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,,11,1000"),
            "prices.csv:3: column 'low': expected a number, got an empty field");
}

TEST(CsvReaderTest, RejectsNumbersThatAreNotFinite) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,NaN,1000"),
            "prices.csv:3: column 'close': expected a finite number, got 'NaN'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,inf,9,11,1000"),
            "prices.csv:3: column 'high': expected a finite number, got 'inf'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,11,-Infinity"),
            "prices.csv:3: column 'volume': expected a finite number, got '-Infinity'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,1e999,9,11,1000"),
            "prices.csv:3: column 'high': expected a number that a double can hold, got '1e999'");
}

TEST(CsvReaderTest, RejectsPricesThatAreNotAboveZero) {
  EXPECT_EQ(fault_in_bar("2000-01-04,0,12,9,11,1000"),
            "prices.csv:3: column 'open': expected a price above 0, got '0'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,-9,11,1000"),
            "prices.csv:3: column 'low': expected a price above 0, got '-9'");
}

TEST(CsvReaderTest, RejectsNegativeVolume) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,12,9,11,-1"),
            "prices.csv:3: column 'volume': expected a volume of 0 or more, got '-1'");
}

TEST(CsvReaderTest, RejectsAHighBelowTheLow) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,8.5,9,11,1000"),
            "prices.csv:3: column 'high': expected a high not below the low '9', got '8.5'");
}

TEST(CsvReaderTest, RejectsDatesThatDoNotExistOrAreWrittenOtherwise) {
  const std::string expected = "prices.csv:3: column 'date': expected a date that exists, as YYYY-MM-DD, got ";
  EXPECT_EQ(fault_in_bar("2010-02-30,10,12,9,11,1000"), expected + "'2010-02-30'");
  EXPECT_EQ(fault_in_bar("2001-02-29,10,12,9,11,1000"), expected + "'2001-02-29'");
  EXPECT_EQ(fault_in_bar("01/04/2000,10,12,9,11,1000"), expected + "'01/04/2000'");
  EXPECT_EQ(fault_in_bar("2000-1-4,10,12,9,11,1000"), expected + "'2000-1-4'");
  EXPECT_EQ(fault_in_bar(",10,12,9,11,1000"), expected + "an empty field");
}

TEST(CsvReaderTest, RejectsDatesOutOfOrderAndTellsBothLines) {
  EXPECT_EQ(fault_in_bar("1999-12-31,10,12,9,11,1000"),
            "prices.csv:3: column 'date': expected a date after 2000-01-03 of line 2, got '1999-12-31'");
}

TEST(CsvReaderTest, RejectsDoubledDatesAndTellsBothLines) {
  EXPECT_EQ(fault_in(kHeader + "\n" + kFirstBar + "\n" + kFirstBar),
            "prices.csv:5: column 'date': expected a date after 2000-01-03 of line 3, got '2000-01-03'");
}

TEST(CsvReaderTest, RejectsLinesWithoutEnd) {
  EXPECT_EQ(fault_in_bar(std::string(70000, '1')),
            "prices.csv:3: expected lines of at most 65536 bytes, got 70000 (is this a CSV file?)");
}

TEST(CsvReaderTest, RejectsBinaryFiles) {
  EXPECT_EQ(fault_in(std::string("\x1f\x8b\x08\x00\x12", 5)),
            "prices.csv:1: expected text, got the byte '\\x1f' (is this a CSV file?)");
  EXPECT_EQ(fault_in_bar(std::string("2000-01-04,10,12,9,11,1\0", 24)),
            "prices.csv:3: expected text, got the byte '\\x00' (is this a CSV file?)");
}

TEST(CsvReaderTest, ShowsValuesCutAndEscaped) {
  EXPECT_EQ(fault_in_bar("2000-01-04,10,\x80\xff,9,11,1000"),
            "prices.csv:3: column 'high': expected a number, got '\\x80\\xff'");
  EXPECT_EQ(fault_in_bar("2000-01-04,10," + std::string(50, 'a') + ",9,11,1000"),
            "prices.csv:3: column 'high': expected a number, got '" + std::string(40, 'a') + "...'");
}

TEST(CsvReaderTest, RejectsQuotesThatDoNotCloseOrCloseTooEarly) {
  EXPECT_EQ(fault_in_bar("2000-01-04,\"10,12,9,11,1000"),
            "prices.csv:3: field 2: expected a closing quote, got '\"10,12,9,11,1000'");
  EXPECT_EQ(fault_in_bar("2000-01-04,\"10\"5,12,9,11,1000"),
            "prices.csv:3: field 2: expected a comma after the closing quote, got '5'");
}

TEST(CsvReaderTest, GivesATableOrADataErrorForEveryPrefixAndEveryChangedByte) {
  const std::string good =
      "\xEF\xBB\xBF\"date\",open,high,low,close,volume\r\n2000-01-03,10,\"12\",9,11,1000\r\n"
      "2000-01-04,1e1,12,9,11,0\n";
  const auto survives = [](const std::string& text) {
    try {
      const PriceTable table = parse(text);
      return table.size() > 0 && table.volume.size() == table.size();
    } catch (const DataError&) {
      return true;
    }
  };
  for (size_t i = 0; i <= good.size(); ++i) EXPECT_TRUE(survives(good.substr(0, i))) << i;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string changed = good;
    for (int byte = 0; byte < 256; ++byte) {
      changed[i] = static_cast<char>(byte);
      EXPECT_TRUE(survives(changed)) << i << " " << byte;
    }
  }
}

TEST(IsoDateTest, CountsDaysFromTheEpochAndBack) {
  EXPECT_EQ(parse_iso_date("1970-01-01"), 0);
  EXPECT_EQ(parse_iso_date("1969-12-31"), -1);
  EXPECT_EQ(parse_iso_date("2000-02-29"), 11016);
  for (const char* text : {"0000-03-01", "1899-12-31", "1970-01-01", "2000-02-29", "9999-12-31"}) {
    ASSERT_TRUE(parse_iso_date(text)) << text;
    EXPECT_EQ(format_iso_date(*parse_iso_date(text)), text);
  }
  for (const char* text : {"", "2000-13-01", "2000-00-10", "2000-01-00", "2000-01-32", "2000-01-011", "2000-01- 1"}) {
    EXPECT_FALSE(parse_iso_date(text)) << text;
  }
}

}  // namespace
}  // namespace torchfeed::datasets
