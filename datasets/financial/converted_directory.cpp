#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/load_instruments.h>
#include <torchfeed/datasets/npy/npy_array.h>

#include <nlohmann/json.hpp>

#include <cmath>
#include <memory>
#include <sstream>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// What meta.json says that reading the rows needs.
struct Meta {
  std::string instrument;
  RowType type = RowType::kFloat32;
  std::int64_t rows = 0;
  std::vector<std::string> columns;
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw DataError(path + ": expected what convert writes, got " + what);
}

RowType read_type(const std::string& path, const std::string& name) {
  const auto type = row_type(name);
  if (!type || name != name_of(*type)) refuse(path, "dtype '" + name + "'");
  return *type;
}

Meta read_meta(const OpenDirectory& directory) {
  const std::string path = directory.path() + "/meta.json";
  const MappedFile file(directory, "meta.json");
  const auto json =
      nlohmann::json::parse(file.bytes().begin(), file.bytes().end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) refuse(path, "something else than JSON of an object");
  try {
    if (json.at("format") != "torchfeed.rows") refuse(path, "format " + json.at("format").dump());
    if (json.at("version") != 1) refuse(path, "version " + json.at("version").dump());
    if (json.at("statistics_block") != kStatisticsBlock) {
      refuse(path, "statistics_block " + json.at("statistics_block").dump());
    }
    Meta meta;
    meta.instrument = json.at("instrument").get<std::string>();
    meta.rows = json.at("rows").get<std::int64_t>();
    meta.columns = json.at("columns").get<std::vector<std::string>>();
    meta.type = read_type(path, json.at("dtype").get<std::string>());
    return meta;
  } catch (const nlohmann::json::exception& error) {
    refuse(path, std::string("a fault in its JSON: ") + error.what());
  }
}

/// An array of the type and shape that meta.json has announced.
NpyArray open_array(const OpenDirectory& directory, const std::string& name, const std::string& type,
                    const std::vector<std::int64_t>& shape, FileAccess access) {
  NpyArray array(directory, name, access);
  const auto text = [](const std::vector<std::int64_t>& sizes) {
    std::string joined;
    for (const auto size : sizes) joined += (joined.empty() ? "[" : ", ") + std::to_string(size);
    return joined + "]";
  };
  if (array.type() != type || array.shape() != shape) {
    throw DataError(array.path() + ": expected '" + type + "' of shape " + text(shape) + " as meta.json says, got '" +
                    array.type() + "' of shape " + text(array.shape()));
  }
  return array;
}

struct Files {
  NpyArray rows;
  NpyArray times;
  NpyArray statistics;
};

/// What is fitted from them would be no number, whatever the options. `convert` writes none such.
void check_statistics(const NpyArray& array, const Meta& meta) {
  const auto* numbers = reinterpret_cast<const double*>(array.bytes().data());
  const std::size_t columns = meta.columns.size();
  for (std::size_t i = 0; i < array.bytes().size() / (2 * sizeof(double)); ++i) {
    const double mean = numbers[2 * i];
    const double squares = numbers[2 * i + 1];
    if (std::isfinite(mean) && std::isfinite(squares) && squares >= 0) continue;
    std::ostringstream message;
    message << array.path() << ": expected a finite mean and a finite sum of squares of at least 0, got " << mean
            << " and " << squares << " (column '" << meta.columns[i % columns] << "', rows from "
            << static_cast<std::int64_t>(i / columns) * kStatisticsBlock << " on)";
    throw DataError(message.str());
  }
}

Instrument open_files(const OpenDirectory& directory, FileAccess access) {
  const Meta meta = read_meta(directory);
  const auto columns = static_cast<std::int64_t>(meta.columns.size());
  constexpr std::int64_t kMostRows = std::int64_t{1} << 60;  // no sum below overflows
  if (meta.rows < 1 || meta.rows > kMostRows || columns < 1) {
    refuse(directory.path() + "/meta.json",
           std::to_string(meta.rows) + " rows of " + std::to_string(columns) + " columns");
  }
  const std::int64_t blocks = (meta.rows + kStatisticsBlock - 1) / kStatisticsBlock;
  auto files = std::make_shared<const Files>(
      Files{open_array(directory, "rows.npy", npy_type_of(meta.type), {meta.rows, columns}, access),
            open_array(directory, "times.npy", "i8", {meta.rows}, access),
            open_array(directory, "statistics.npy", "f8", {blocks, columns, 2}, FileAccess::kNormal)});
  check_statistics(files->statistics, meta);
  Instrument instrument;
  instrument.name = meta.instrument;
  instrument.source = directory.path();
  instrument.columns = meta.columns;
  instrument.type = meta.type;
  instrument.rows = files->rows.bytes().data();
  instrument.times = reinterpret_cast<const std::int64_t*>(files->times.bytes().data());
  instrument.size = meta.rows;
  instrument.statistics = reinterpret_cast<const double*>(files->statistics.bytes().data());
  instrument.rows_in_blocks = meta.rows;
  instrument.storage = std::move(files);
  return instrument;
}

}  // namespace

// All files are of one directory, as `convert --append` may put another into its place at any time, and then removes
// the old one: what is missing there is in the new one.
Instrument open_converted(const std::string& path, FileAccess access) {
  constexpr int kAttempts = 10;  // against who replaces it faster than it can be opened
  for (int attempt = 1;; ++attempt) {
    const OpenDirectory directory(path);
    try {
      return open_files(directory, access);
    } catch (const DataError&) {
      if (attempt == kAttempts || directory.is_current()) throw;
    }
  }
}

}  // namespace torchfeed::datasets::financial
