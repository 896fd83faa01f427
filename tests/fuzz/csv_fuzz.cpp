#include "csv_fuzz.h"

#include <sys/mman.h>
#include <torchfeed/datasets/csv/csv_block.h>
#include <torchfeed/datasets/csv/csv_plan.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets {
namespace {

[[noreturn]] void fail(const char* what, const std::string& a, const std::string& b) {
  std::fprintf(stderr, "csv_fuzz: %s differ: '%s' and '%s'\n", what, a.c_str(), b.c_str());
  std::abort();
}

void expect(bool holds, const char* what) {
  if (!holds) fail(what, "", "");
}

bool same(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t c = 0; c < a.size(); ++c) {
    if (a[c].size() != b[c].size()) return false;
    if (!a[c].empty() && std::memcmp(a[c].data(), b[c].data(), a[c].size() * sizeof(double)) != 0) return false;
  }
  return true;
}

/// All that comes out of a reader.
struct Outcome {
  std::string error;
  ColumnTable table;
  std::uint64_t dropped = 0;
  std::uint64_t filled = 0;
};

template <typename Open>
Outcome read(Open open) {
  Outcome outcome;
  try {
    CsvReader reader = open();
    outcome.table.names = reader.columns();
    outcome.table.values.resize(reader.columns().size());
    while (const auto rows = reader.next()) {
      expect(rows->size() > 0 && rows->values.size() == outcome.table.values.size(), "shapes");
      auto& all = outcome.table;
      all.times.insert(all.times.end(), rows->times.begin(), rows->times.end());
      for (std::size_t c = 0; c < all.values.size(); ++c) {
        expect(rows->values[c].size() == rows->size(), "lengths");
        all.values[c].insert(all.values[c].end(), rows->values[c].begin(), rows->values[c].end());
      }
    }
    outcome.dropped = reader.dropped_rows();
    outcome.filled = reader.filled_values();
  } catch (const DataError& error) {
    outcome.error = error.what();
    outcome.table = {};  // how many rows come before an error depends on the blocks
    outcome.dropped = outcome.filled = 0;
    expect(outcome.error.find('\n') == std::string::npos, "lines of a message");
  } catch (const std::invalid_argument& error) {
    outcome.error = error.what();
  }
  return outcome;
}

void expect_same(const Outcome& a, const Outcome& b) {
  if (a.error != b.error) fail("errors", a.error, b.error);
  expect(a.table.names == b.table.names, "names");
  expect(a.table.times == b.table.times, "times");
  expect(same(a.table.values, b.table.values), "values");
  expect(a.dropped == b.dropped && a.filled == b.filled, "counts");
}

void expect_sound(const ColumnTable& table) {
  for (std::size_t i = 1; i < table.size(); ++i) expect(table.times[i] > table.times[i - 1], "orders of times");
  for (const auto& column : table.values) {
    for (const double value : column) expect(value - value == 0, "finite numbers");
  }
}

CsvOptions options_of(std::uint8_t a, std::uint8_t b) {
  CsvOptions options;
  options.missing = static_cast<MissingValues>(a % 3);
  options.time_format = static_cast<TimeFormat>((a / 3) % 7);
  options.check_prices = (b & 1) != 0;
  constexpr char kDelimiters[] = {',', ';', '\t', '|'};
  options.delimiter = kDelimiters[(b >> 1) & 3];
  if ((b & 8) != 0) options.time_zone = std::string("-03:30");
  if ((b & 16) != 0) options.columns = {"close", "open"};
  if ((b & 32) != 0) options.time_column = std::string("t");
  return options;
}

/// The quick and the careful way through each line.
void compare_ways(std::string_view text, const CsvOptions& options) {
  try {
    const auto planned = csv::plan_csv(text, /*whole=*/true, "f", options);
    expect(planned.has_value(), "plans");
    const auto rows = text.substr(planned->header.bytes);
    const auto quick = csv::BlockParser(planned->plan).parse(rows);
    const auto careful = csv::BlockParser(planned->plan, /*careful=*/true).parse(rows);
    expect(quick.times == careful.times && same(quick.values, careful.values), "quick and careful rows");
    expect(quick.fault.has_value() == careful.fault.has_value(), "quick and careful faults");
    if (quick.fault) expect(quick.fault->fault.message == careful.fault->fault.message, "quick and careful messages");
  } catch (const DataError&) {
  } catch (const std::invalid_argument&) {
  }
}

/// As a file, where gzip is looked for.
void read_as_file(std::string_view text, const CsvOptions& options) {
  const int fd = ::memfd_create("csv_fuzz", MFD_CLOEXEC);
  if (fd < 0) return;
  if (::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    char path[64];
    std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    CsvOptions small = options;
    small.block_bytes = 64;
    const auto whole = read([&] { return CsvReader(path, options); });
    expect_same(whole, read([&] { return CsvReader(path, small); }));
    expect_sound(whole.table);
  }
  ::close(fd);
}

void compare_all(std::string_view text, const CsvOptions& options, bool threads, std::size_t block_bytes) {
  compare_ways(text, options);
  const auto whole = read([&] { return CsvReader::from_text(text, "f", options); });
  expect_sound(whole.table);
  CsvOptions small = options;
  small.block_bytes = block_bytes;
  small.threads = threads ? 2 : 1;
  expect_same(whole, read([&] { return CsvReader::from_text(text, "f", small); }));
}

}  // namespace
}  // namespace torchfeed::datasets

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace torchfeed::datasets;
  if (size < 2) return 0;
  const auto options = options_of(data[0], data[1]);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  if ((data[1] & 128) != 0) {
    read_as_file(text, options);
  } else {
    compare_all(text, options, (data[1] & 64) != 0, std::size_t{1} << (data[0] / 21));
  }
  return 0;
}
