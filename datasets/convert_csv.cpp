#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/converted/row_pipeline.h>
#include <torchfeed/datasets/converted/row_writer.h>
#include <torchfeed/datasets/converted/staged_directory.h>
#include <torchfeed/datasets/csv/csv_line.h>
#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/npy/mapped_file.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
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
  CsvOptions csv;  // how the file was read
};

constexpr const char* kMissingNames[] = {"error", "drop", "ffill"};
constexpr const char* kTimeFormatNames[] = {"auto", "date", "datetime", "s", "ms", "us", "ns"};

template <typename Value, std::size_t kCount>
void read_name(const json& name, const char* const (&names)[kCount], Value& value) {
  const auto found = std::find(std::begin(names), std::end(names), name.get<std::string>());
  if (found != std::end(names)) value = static_cast<Value>(found - std::begin(names));
}

ordered_json csv_of(const CsvOptions& csv) {
  return {{"time_column", csv.time_column},
          {"time_format", kTimeFormatNames[static_cast<std::size_t>(csv.time_format)]},
          {"missing", kMissingNames[static_cast<std::size_t>(csv.missing)]},
          {"delimiter", std::string(1, csv.delimiter)},
          {"check_prices", csv.check_prices}};
}

void read_csv_options(const json& all, CsvOptions& csv) {
  all.at("time_column").get_to(csv.time_column);
  read_name(all.at("time_format"), kTimeFormatNames, csv.time_format);
  read_name(all.at("missing"), kMissingNames, csv.missing);
  const auto delimiter = all.at("delimiter").get<std::string>();
  if (delimiter.size() == 1) csv.delimiter = delimiter[0];
  all.at("check_prices").get_to(csv.check_prices);
}

// `value` as given, or that of the directory.
template <typename Value>
void take_default(Value& value, const Value& unset, const Value& before) {
  if (value == unset) value = before;
}

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
    if (all.contains("csv")) read_csv_options(all.at("csv"), meta.csv);
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
    check_names(reader);
    CsvOptions csv = options_.csv;
    if (before_) csv.check_prices = before_->csv.check_prices;  // which decides about columns
    BarRows bar_rows(reader.columns(), options_.features.value_or(BarRows::default_features(reader.columns(), csv)),
                     path_, csv);
    if (before_) resume(reader, bar_rows);
    copy(reader, bar_rows);
    const ConvertResult result = describe(reader, bar_rows);
    if (result.rows == 0) {
      throw DataError(path_ + ": expected more than " + std::to_string(bar_rows.warm_up()) +
                      " bars, which the features need to warm up, got " + std::to_string(bar_rows.bars()));
    }
    if (!writer_) return result;  // all is there already
    writer_->finish(bar_rows.state());
    // A file's name may be no text.
    const std::string meta =
        meta_of(reader, bar_rows).dump(2, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
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

  // meta.json is in UTF-8, and a name that it has otherwise would be found in no file.
  void check_names(const CsvReader& reader) const {
    auto names = reader.columns();
    names.push_back(options_.csv.time_column);
    for (const auto& column : names) {
      try {
        json(column).dump();
      } catch (const json::exception&) {
        throw DataError(path_ + ": expected names of columns in UTF-8, got " + csv::shown(column) +
                        " (rename it, or name the columns to take)");
      }
    }
  }

  // Before the file is looked at.
  void take_defaults() {
    CsvOptions& csv = options_.csv;
    const CsvOptions unset;
    take_default(csv.columns, unset.columns, before_->bar_columns);
    take_default(csv.time_column, unset.time_column, before_->csv.time_column);
    take_default(csv.time_format, unset.time_format, before_->csv.time_format);
    take_default(csv.missing, unset.missing, before_->csv.missing);
    take_default(csv.delimiter, unset.delimiter, before_->csv.delimiter);
    take_default(csv.check_prices, unset.check_prices, before_->csv.check_prices);
    take_default(csv.time_zone, unset.time_zone, before_->time_zone);
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
    times_.emplace((staged_.target() / converted::kTimesFile).string());
    if (known_times().size() != static_cast<std::size_t>(before_->rows)) {
      differ("rows", std::to_string(before_->rows), std::to_string(known_times().size()));
    }
    last_time_ = known_times().back();
    bar_rows.load_state(converted::read_numbers(staged_.target() / converted::kStateFile));
    last_values_ = bar_rows.last_values(reader.columns());
    auto values = last_values_;
    // Columns that make way for a feature: nobody looks at what fills them, but a row with a hole would go.
    for (double& value : values) value = std::isnan(value) ? 0 : value;
    reader.set_last_values(std::move(values), last_time_);
  }

  std::span<const std::int64_t> known_times() const {
    const auto file = times_->bytes();
    const auto bytes = file.subspan(std::min(NpyWriter::kHeaderBytes, file.size()));
    return {reinterpret_cast<const std::int64_t*>(bytes.data()), bytes.size() / sizeof(std::int64_t)};
  }

  // The files in the making: begun where there is something to write, as those of a directory have to be copied.
  converted::RowWriter& writer(const BarRows& bar_rows) {
    if (!writer_) {
      for (const auto* name : {converted::kRowsFile, converted::kTimesFile, converted::kStatisticsFile}) {
        if (before_) converted::copy_file(staged_.target() / name, staged_.path() / name);
      }
      writer_.emplace(staged_.path(), bar_rows.columns(), type_, path_, before_ ? before_->rows : 0);
    }
    return *writer_;
  }

  void copy(CsvReader& reader, BarRows& bar_rows) {
    std::optional<converted::RowPipeline> rows;
    try {
      while (auto bars = reader.next()) {
        if (options_.progress) options_.progress(reader.bytes_read());
        if (before_) drop_known(*bars);
        if (bars->size() == 0) continue;
        if (!rows) rows.emplace(reader, writer(bar_rows), options_.csv.threads);
        rows->push(bar_rows.take(std::move(*bars)));
      }
    } catch (...) {
      if (rows) rows->finish();  // rows before may have a fault, too
      throw;
    }
    if (rows) rows->finish();
    if (options_.progress) options_.progress(reader.bytes_read());
  }

  // Bars that the directory has already, and such as it should have.
  void drop_known(ColumnTable& bars) {
    const auto end = std::upper_bound(bars.times.begin(), bars.times.end(), last_time_);
    const auto known = end - bars.times.begin();
    if (known == 0) return;
    if (end[-1] == last_time_) compare_last(bars, static_cast<std::size_t>(known - 1));
    // Of bars that warmed up the features the directory has no times.
    const auto times = known_times();
    auto place = times.begin();
    for (auto time = std::lower_bound(bars.times.begin(), end, times.front()); time != end; ++time) {
      place = std::lower_bound(place, times.end(), *time);
      if (*place != *time) ++late_bars_;
    }
    bars.times.erase(bars.times.begin(), bars.times.begin() + known);
    for (auto& column : bars.values) column.erase(column.begin(), column.begin() + known);
  }

  // Where the vendor has corrected the last bar, or adjusted all, what is there does not go with what is new.
  void compare_last(const ColumnTable& bars, std::size_t row) const {
    for (std::size_t c = 0; c < bars.names.size(); ++c) {
      const double now = bars.values[c][row];
      if (std::isnan(last_values_[c]) || last_values_[c] == now) continue;
      std::ostringstream text;
      text.precision(17);
      text << path_ << ": column '" << bars.names[c] << "': cannot append: expected " << last_values_[c] << " at "
           << csv::format_time(last_time_) << ", as " << staged_.target().string() << " has it, got " << now
           << " (convert anew)";
      throw DataError(text.str());
    }
  }

  ConvertResult describe(const CsvReader& reader, const BarRows& bar_rows) const {
    ConvertResult result;
    result.directory = staged_.target().string();
    result.instrument = instrument_;
    const std::int64_t rows_before = before_ ? before_->rows : 0;
    result.rows = writer_ ? writer_->rows() : rows_before;
    result.new_rows = result.rows - rows_before;
    result.bars = bar_rows.bars();
    result.columns = bar_rows.columns();
    result.skipped_columns = reader.skipped_columns();
    result.dropped_rows = reader.dropped_rows();
    result.filled_values = reader.filled_values();
    result.late_bars = late_bars_;
    result.bytes = reader.bytes_read();
    return result;
  }

  ordered_json meta_of(const CsvReader& reader, const BarRows& bar_rows) const {
    const auto& writer = *writer_;
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
            {"csv", csv_of(options_.csv)},
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
  std::optional<Meta> before_;       // of the directory that is appended to
  std::optional<MappedFile> times_;  // of that
  std::int64_t last_time_ = 0;
  std::vector<double> last_values_;  // of the bar at that time; NaN for columns that rows do not have
  std::uint64_t late_bars_ = 0;
  std::optional<converted::RowWriter> writer_;
  RowType type_ = RowType::kFloat32;
};

}  // namespace

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
