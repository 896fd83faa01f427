#include <torchfeed/datasets/csv_reader.h>
#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/financial/load_instruments.h>

#include <cctype>
#include <filesystem>
#include <memory>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

struct CsvRows {
  std::vector<float> rows;
  std::vector<std::int64_t> times;
  std::vector<double> statistics;
};

}  // namespace

std::vector<std::string> feature_columns(const std::vector<std::string>& features) { return features; }

Instrument load_csv(const std::string& path, const FinancialOptions& /*options*/) {
  const PriceTable p = read_prices(path);
  auto csv = std::make_shared<CsvRows>();
  const std::vector<std::vector<double>> cols = {p.open,
                                                 p.high,
                                                 p.low,
                                                 p.close,
                                                 p.volume,
                                                 log_return(p.close),
                                                 log_range(p.high, p.low),
                                                 log_volume_change(p.volume),
                                                 log_close_open(p.open, p.close)};
  for (size_t r = 1; r < p.size(); ++r) {
    csv->times.push_back(std::int64_t{p.date[r]} * 86'400'000'000'000);
    for (auto& c : cols) csv->rows.push_back(static_cast<float>(c[r]));
  }
  Instrument instrument;
  instrument.name = std::filesystem::path(path).stem();
  instrument.source = path;
  instrument.columns = {
      "open", "high", "low", "close", "volume", "log_return", "log_range", "log_volume_change", "log_close_open"};
  instrument.size = static_cast<std::int64_t>(csv->times.size());
  const auto n = cols.size();
  for (std::int64_t b = 0; b < instrument.size; b += kStatisticsBlock) {
    for (size_t c = 0; c < n; ++c) {
      std::vector<double> v;
      for (std::int64_t r = b; r < std::min(b + kStatisticsBlock, instrument.size); ++r)
        v.push_back(csv->rows[static_cast<size_t>(r) * n + c]);
      double mean = 0, sq = 0;
      for (double x : v) mean += x;
      mean /= static_cast<double>(v.size());
      for (double x : v) sq += (x - mean) * (x - mean);
      csv->statistics.push_back(mean);
      csv->statistics.push_back(sq);
    }
  }
  instrument.rows = csv->rows.data();
  instrument.times = csv->times.data();
  instrument.statistics = csv->statistics.data();
  instrument.rows_in_blocks = instrument.size;
  instrument.storage = csv;
  return instrument;
}

}  // namespace torchfeed::datasets::financial
