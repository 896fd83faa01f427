#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/converted/row_writer.h>
#include <torchfeed/datasets/converted/staged_directory.h>
#include <torchfeed/datasets/data_error.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

namespace torchfeed::datasets {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "torchfeed.rows";
constexpr int kVersion = 1;

/// What a directory says of itself.
struct Meta {
  std::string time_zone;
  std::string dtype;
  std::int64_t rows = 0;
  std::uint64_t bars = 0;
  std::vector<std::string> columns;
  std::vector<std::string> features;
  std::vector<std::string> bar_columns;
};

Meta read_meta(const fs::path& directory) {
  const fs::path path = directory / converted::kMetaFile;
  const auto other = [&](const std::string& got) {
    return DataError(directory.string() + ": expected a directory that convert has made, or nothing there, got " + got);
  };
  std::ifstream file(path);
  if (!file) throw other("no " + std::string(converted::kMetaFile));
  try {
    const json all = json::parse(file);
    if (all.at("format") != kFormat || all.at("version") != kVersion) throw other("another format or version");
    Meta meta;
    all.at("time_zone").get_to(meta.time_zone);
    all.at("dtype").get_to(meta.dtype);
    all.at("rows").get_to(meta.rows);
    all.at("bars").get_to(meta.bars);
    all.at("columns").get_to(meta.columns);
    all.at("features").get_to(meta.features);
    all.at("bar_columns").get_to(meta.bar_columns);
    if (meta.rows < 1) throw other("one without rows");
    return meta;
  } catch (const json::exception& error) {
    throw other(std::string("a ") + converted::kMetaFile + " that says: " + error.what());
  }
}

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

/// One file on its way.
class Conversion {
 public:
  Conversion(const std::string& path, const std::string& folder, const ConvertOptions& options)
      : path_(path),
        options_(options),
        instrument_(options.instrument.empty() ? instrument_of(path) : options.instrument),
        staged_(folder, checked_name()) {
    if (fs::exists(staged_.target())) {
      Meta meta = read_meta(staged_.target());
      if (options.append) before_ = std::move(meta);
    }
    if (before_) take_defaults();
    type_ = options_.dtype.value_or(RowType::kFloat32);
  }

  ConvertResult run() {
    CsvReader reader(path_, options_.csv);
    BarRows bar_rows(reader.columns(), options_.features.value_or(BarRows::default_features(reader.columns())), path_);
    if (before_) resume(reader, bar_rows);
    converted::RowWriter writer(staged_.path(), bar_rows.columns(), type_, path_, before_ ? before_->rows : 0);
    copy(reader, bar_rows, writer);
    ConvertResult result = describe(reader, bar_rows, writer);
    if (writer.rows() == 0) {
      throw DataError(path_ + ": expected more than " + std::to_string(bar_rows.warm_up()) +
                      " bars, which the features need to warm up, got " + std::to_string(bar_rows.bars()));
    }
    if (result.new_rows == 0) return result;  // all is there already
    writer.finish(bar_rows.state());
    // A file's name may be no text.
    const std::string meta =
        meta_of(reader, bar_rows, writer).dump(2, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
    converted::write_file(staged_.path() / converted::kMetaFile, meta + '\n');
    staged_.commit();
    return result;
  }

 private:
  const std::string& checked_name() const {
    if (instrument_.empty() || instrument_[0] == '.' || instrument_.find('/') != std::string::npos) {
      throw DataError(path_ + ": expected a file name to name the instrument, got '" + instrument_ + "'");
    }
    return instrument_;
  }

  [[noreturn]] void differ(const char* what, const std::string& before, const std::string& now) const {
    throw DataError(staged_.target().string() + ": cannot append: expected the " + what + " " + before + ", got " +
                    now);
  }

  // Before the file is looked at.
  void take_defaults() {
    CsvOptions& csv = options_.csv;
    if (csv.columns.empty()) csv.columns = before_->bar_columns;
    if (csv.time_zone == CsvOptions{}.time_zone) csv.time_zone = before_->time_zone;
    if (csv.time_zone != before_->time_zone) differ("time zone", before_->time_zone, csv.time_zone);
    if (!options_.features) options_.features = before_->features;
    if (!options_.dtype) options_.dtype = row_type(before_->dtype);
    if (!options_.dtype || name_of(*options_.dtype) != before_->dtype) {
      differ("type", before_->dtype, options_.dtype ? name_of(*options_.dtype) : "none");
    }
  }

  void resume(CsvReader& reader, BarRows& bar_rows) {
    if (bar_rows.columns() != before_->columns) {
      differ("columns", joined(before_->columns), joined(bar_rows.columns()));
    }
    for (const auto* name : {converted::kRowsFile, converted::kTimesFile, converted::kStatisticsFile}) {
      converted::copy_file(staged_.target() / name, staged_.path() / name);
    }
    last_time_ = converted::read_last_time(staged_.path() / converted::kTimesFile, before_->rows);
    bar_rows.load_state(converted::read_numbers(staged_.target() / converted::kStateFile));
    reader.set_last_values(bar_rows.last_values(reader.columns()), last_time_);
  }

  void copy(CsvReader& reader, BarRows& bar_rows, converted::RowWriter& writer) {
    std::vector<float> rows;
    std::vector<std::int64_t> times;
    while (auto bars = reader.next()) {
      if (options_.progress) options_.progress(reader.bytes_read());
      drop_known(*bars);
      rows.clear();
      times.clear();
      bar_rows.push(*bars, rows, times);
      writer.write(rows, times);
    }
    if (options_.progress) options_.progress(reader.bytes_read());
  }

  // Bars that the directory has already.
  void drop_known(ColumnTable& bars) const {
    if (!before_ || bars.times.front() > last_time_) return;
    const auto known = std::upper_bound(bars.times.begin(), bars.times.end(), last_time_) - bars.times.begin();
    bars.times.erase(bars.times.begin(), bars.times.begin() + known);
    for (auto& column : bars.values) column.erase(column.begin(), column.begin() + known);
  }

  ConvertResult describe(const CsvReader& reader, const BarRows& bar_rows, const converted::RowWriter& writer) const {
    ConvertResult result;
    result.directory = staged_.target().string();
    result.instrument = instrument_;
    result.rows = writer.rows();
    result.new_rows = writer.rows() - (before_ ? before_->rows : 0);
    result.bars = bar_rows.bars();
    result.columns = bar_rows.columns();
    result.skipped_columns = reader.skipped_columns();
    result.dropped_rows = reader.dropped_rows();
    result.filled_values = reader.filled_values();
    result.bytes = reader.bytes_read();
    return result;
  }

  ordered_json meta_of(const CsvReader& reader, const BarRows& bar_rows, const converted::RowWriter& writer) const {
    ordered_json scaling = ordered_json::object();
    for (std::size_t c = 0; c < bar_rows.columns().size(); ++c) {
      const Moments moments = writer.statistics().of_leading(c, writer.rows());
      scaling[bar_rows.columns()[c]] = {{"mean", moments.mean},
                                        {"stddev", std::sqrt(moments.squares / static_cast<double>(writer.rows()))}};
    }
    return {{"format", kFormat},
            {"version", kVersion},
            {"instrument", instrument_},
            {"source", path_},
            {"time_zone", options_.csv.time_zone.empty() ? "UTC" : options_.csv.time_zone},
            {"dtype", name_of(type_)},
            {"rows", writer.rows()},
            {"columns", bar_rows.columns()},
            {"features", bar_rows.features()},
            {"bar_columns", reader.columns()},
            {"warm_up", bar_rows.warm_up()},
            {"bars", bar_rows.bars()},
            {"statistics_block", kStatisticsBlock},
            {"scaling", scaling}};
  }

  std::string path_;
  ConvertOptions options_;
  std::string instrument_;
  converted::StagedDirectory staged_;
  std::optional<Meta> before_;  // of the directory that is appended to
  std::int64_t last_time_ = 0;
  RowType type_ = RowType::kFloat32;
};

}  // namespace

const char* name_of(RowType type) {
  switch (type) {
    case RowType::kFloat16:
      return "float16";
    case RowType::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

std::optional<RowType> row_type(std::string_view name) {
  if (name == "float32" || name == "f32") return RowType::kFloat32;
  if (name == "float16" || name == "f16") return RowType::kFloat16;
  if (name == "bfloat16" || name == "bf16") return RowType::kBFloat16;
  return std::nullopt;
}

std::string instrument_of(const std::string& path) {
  std::string name = fs::path(path).filename().string();
  for (const std::string_view suffix : {".gz", ".csv", ".txt", ".tsv"}) {
    if (name.size() <= suffix.size()) continue;
    std::string end = name.substr(name.size() - suffix.size());
    std::transform(end.begin(), end.end(), end.begin(), [](unsigned char c) { return std::tolower(c); });
    if (end == suffix) name.resize(name.size() - suffix.size());
  }
  return name;
}

ConvertResult convert_csv(const std::string& path, const std::string& folder, const ConvertOptions& options) {
  return Conversion(path, folder, options).run();
}

void remove_interrupted_conversions(const std::string& folder) { converted::StagedDirectory::remove_leftovers(folder); }

}  // namespace torchfeed::datasets
