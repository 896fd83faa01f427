#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/csv_reader.h>

#include <array>
#include <utility>

namespace torchfeed::datasets {
namespace {

CsvOptions daily_bars() {
  CsvOptions options;
  options.time_column = "date";
  options.time_format = TimeFormat::kDate;
  options.columns = {"open", "high", "low", "close", "volume"};
  return options;
}

PriceTable read_all(CsvReader reader) {
  constexpr std::int64_t kDay = std::int64_t{86400} * 1'000'000'000;
  PriceTable prices;
  const std::array columns = {&prices.open, &prices.high, &prices.low, &prices.close, &prices.volume};
  while (const auto table = reader.next()) {
    for (const auto time : table->times) {
      prices.date.push_back(static_cast<int32_t>(time / kDay - (time % kDay < 0 ? 1 : 0)));
    }
    for (size_t c = 0; c < columns.size(); ++c) {
      columns[c]->insert(columns[c]->end(), table->values[c].begin(), table->values[c].end());
    }
  }
  return prices;
}

}  // namespace

PriceTable read_prices(const std::string& path) { return read_all(CsvReader(path, daily_bars())); }

PriceTable parse_prices(std::string_view text, const std::string& name) {
  return read_all(CsvReader::from_text(text, name, daily_bars()));
}

}  // namespace torchfeed::datasets
