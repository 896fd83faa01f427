#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/load_instruments.h>
#include <torchfeed/datasets/row_statistics.h>
#include <torchfeed/datasets/streaming_features.h>

#include <cctype>
#include <memory>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// What an instrument's pointers point into.
struct CsvRows {
  std::vector<float> rows;
  std::vector<std::int64_t> times;
  std::vector<double> statistics;
};

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

std::vector<std::string> feature_columns(const std::vector<std::string>& features) {
  std::vector<std::string> columns;
  for (const auto& name : features) {
    if (is_feature(name)) {
      const StreamingFeatures feature({name});
      columns.insert(columns.end(), feature.columns().begin(), feature.columns().end());
    } else {
      columns.push_back(lower(name));
    }
  }
  return columns;
}

Instrument load_csv(const std::string& path, const FinancialOptions& options) {
  CsvReader reader(path, options.csv);
  BarRows rows(reader.columns(),
               options.features.empty() ? BarRows::default_features(reader.columns(), options.csv) : options.features,
               path, options.csv);
  auto csv = std::make_shared<CsvRows>();
  while (auto bars = reader.next()) rows.push(std::move(*bars), csv->rows, csv->times);
  if (csv->times.empty()) {
    throw DataError(path + ": expected more than " + std::to_string(rows.warm_up()) +
                    " bars, which the features need before their first row, got " + std::to_string(rows.bars()));
  }
  RowStatistics statistics(rows.columns().size());
  statistics.add(csv->rows);
  csv->statistics = statistics.blocks();

  Instrument instrument;
  instrument.name = instrument_of(path);
  instrument.source = path;
  instrument.columns = rows.columns();
  instrument.rows = csv->rows.data();
  instrument.times = csv->times.data();
  instrument.size = static_cast<std::int64_t>(csv->times.size());
  instrument.statistics = csv->statistics.data();
  instrument.rows_in_blocks = instrument.size;
  instrument.storage = std::move(csv);
  return instrument;
}

}  // namespace torchfeed::datasets::financial
