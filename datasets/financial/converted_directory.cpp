#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/load_instruments.h>
#include <torchfeed/datasets/npy/npy_array.h>

#include <nlohmann/json.hpp>

#include <memory>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// What meta.json says that reading the rows needs.
struct Meta {
  std::string instrument;
  RowType type = RowType::kFloat32;
  std::string npy_type;
  std::int64_t rows = 0;
  std::vector<std::string> columns;
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw DataError(path + ": expected what convert writes, got " + what);
}

void read_type(const std::string& path, const std::string& name, Meta& meta) {
  if (name == "float32") {
    meta.type = RowType::kFloat32;
    meta.npy_type = "f4";
  } else if (name == "float16") {
    meta.type = RowType::kFloat16;
    meta.npy_type = "f2";
  } else if (name == "bfloat16") {
    meta.type = RowType::kBFloat16;
    meta.npy_type = "u2";  // NumPy has no such type
  } else {
    refuse(path, "dtype '" + name + "'");
  }
}

Meta read_meta(const std::string& path) {
  const MappedFile file(path);
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
    read_type(path, json.at("dtype").get<std::string>(), meta);
    return meta;
  } catch (const nlohmann::json::exception& error) {
    refuse(path, std::string("a fault in its JSON: ") + error.what());
  }
}

/// An array of the type and shape that meta.json has announced.
NpyArray open_array(const std::string& path, const std::string& type, const std::vector<std::int64_t>& shape,
                    FileAccess access) {
  NpyArray array(path, access);
  const auto text = [](const std::vector<std::int64_t>& sizes) {
    std::string joined;
    for (const auto size : sizes) joined += (joined.empty() ? "[" : ", ") + std::to_string(size);
    return joined + "]";
  };
  if (array.type() != type || array.shape() != shape) {
    throw DataError(path + ": expected '" + type + "' of shape " + text(shape) + " as meta.json says, got '" +
                    array.type() + "' of shape " + text(array.shape()));
  }
  return array;
}

struct Files {
  NpyArray rows;
  NpyArray times;
  NpyArray statistics;
};

}  // namespace

Instrument open_converted(const std::string& directory, FileAccess access) {
  const Meta meta = read_meta(directory + "/meta.json");
  const auto columns = static_cast<std::int64_t>(meta.columns.size());
  constexpr std::int64_t kMostRows = std::int64_t{1} << 60;  // no sum below overflows
  if (meta.rows < 1 || meta.rows > kMostRows || columns < 1) {
    refuse(directory + "/meta.json", std::to_string(meta.rows) + " rows of " + std::to_string(columns) + " columns");
  }
  const std::int64_t blocks = (meta.rows + kStatisticsBlock - 1) / kStatisticsBlock;
  auto files = std::make_shared<const Files>(
      Files{open_array(directory + "/rows.npy", meta.npy_type, {meta.rows, columns}, access),
            open_array(directory + "/times.npy", "i8", {meta.rows}, access),
            open_array(directory + "/statistics.npy", "f8", {blocks, columns, 2}, FileAccess::kNormal)});
  Instrument instrument;
  instrument.name = meta.instrument;
  instrument.source = directory;
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

}  // namespace torchfeed::datasets::financial
