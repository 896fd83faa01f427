#include "options.h"

#include <torchfeed/datasets/streaming_features.h>

#include <CLI/CLI.hpp>
#include <map>
#include <utility>

#include "../common/command_line.h"
#include "../common/program.h"

namespace torchfeed::convert {
namespace {

using datasets::MissingValues;
using datasets::TimeFormat;

constexpr std::int64_t kMostWorkers = 256;

const std::map<std::string, MissingValues> kMissing = {
    {"error", MissingValues::kError}, {"drop", MissingValues::kDrop}, {"ffill", MissingValues::kForwardFill}};
const std::map<std::string, TimeFormat> kTimeFormats = {{"auto", TimeFormat::kAuto},
                                                        {"date", TimeFormat::kDate},
                                                        {"datetime", TimeFormat::kDateTime},
                                                        {"s", TimeFormat::kEpochSeconds},
                                                        {"ms", TimeFormat::kEpochMilliseconds},
                                                        {"us", TimeFormat::kEpochMicroseconds},
                                                        {"ns", TimeFormat::kEpochNanoseconds}};

/// Options as they are written.
struct Written {
  std::vector<std::string> paths;
  std::string features;
  std::string columns;
  std::string dtype;
  std::string missing = "error";
  std::string time_format = "auto";
  std::string delimiter = ",";
  bool no_price_checks = false;
};

template <typename Map>
std::vector<std::string> keys(const Map& map) {
  std::vector<std::string> names;
  for (const auto& [name, value] : map) names.push_back(name);
  return names;
}

// Names between commas, without blanks around them.
std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> names;
  for (auto& name : CLI::detail::split(text, ',')) {
    if (!CLI::detail::trim(name).empty()) names.push_back(name);
  }
  return names;
}

void add_options(CLI::App& app, Options& options, Written& written) {
  auto& csv = options.convert.csv;
  app.add_option("paths", written.paths, "CSV files, each of one instrument, then the folder for the results")
      ->required()
      ->type_name("IN.csv... OUT_DIR")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--features", written.features,
                 "Features beside the file's columns, by name, or none (default: log_return, log_range, "
                 "log_volume_change and log_close_open)")
      ->type_name("NAME,...");
  app.add_option("--columns", written.columns, "The file's columns to take (default: all that hold numbers)")
      ->type_name("NAME,...");
  app.add_option("--dtype", written.dtype, "Type of the rows: f32, f16 or bf16 (default: f32)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "float32", "float16", "bfloat16"}));
  app.add_flag("--append", options.convert.append,
               "Add the bars that are later than those in OUT_DIR to them, read with the options that were given then");
  app.add_option("--missing", written.missing,
                 "Where a value is missing: error, drop (the row) or ffill (the value before)")
      ->check(CLI::IsMember(keys(kMissing)))
      ->capture_default_str();
  app.add_option("--time-zone", csv.time_zone,
                 "Of times that are written without one: UTC or as +05:30 (default: UTC)");
  app.add_option("--time-column", csv.time_column, "Column of the times (default: date, time, datetime or timestamp)");
  app.add_option("--time-format", written.time_format, "auto, date, datetime, or an epoch's unit: s, ms, us, ns")
      ->check(CLI::IsMember(keys(kTimeFormats)))
      ->capture_default_str();
  app.add_option("--delimiter", written.delimiter, "Between fields: a character, or tab")->capture_default_str();
  app.add_flag(
      "--no-price-checks", written.no_price_checks,
      "Take prices that are not above 0, high below low and volumes below 0 as they are; no features then, but "
      "those of --features");
  app.add_option("--instrument", options.convert.instrument, "Name of the result, of a single file (default: its own)");
  app.add_option("--workers", options.workers, "Threads that convert; -1: from the threading plan")
      ->check(CLI::Range(std::int64_t{-1}, kMostWorkers))
      ->capture_default_str();
  app.add_flag("--quiet", options.quiet, "No progress on stderr");
}

Options resolve(Options options, Written written, bool has_features) {
  auto& convert = options.convert;
  if (written.paths.size() < 2)
    throw program::InputError("expected CSV files and a folder for the results, got one path");
  options.folder = written.paths.back();
  written.paths.pop_back();
  options.inputs = std::move(written.paths);
  if (!convert.instrument.empty() && options.inputs.size() > 1) {
    throw program::InputError("--instrument: expected a single CSV file, got " + std::to_string(options.inputs.size()));
  }
  if (has_features) {
    convert.features = written.features == "none" ? std::vector<std::string>{} : split_list(written.features);
  }
  if (!written.dtype.empty()) convert.dtype = datasets::row_type(written.dtype);
  convert.csv.columns = split_list(written.columns);
  convert.csv.missing = kMissing.at(written.missing);
  convert.csv.time_format = kTimeFormats.at(written.time_format);
  convert.csv.check_prices = !written.no_price_checks;
  if (written.delimiter == "tab" || written.delimiter == "\\t") written.delimiter = "\t";
  if (written.delimiter.size() != 1) {
    throw program::InputError("--delimiter: expected one character or tab, got '" + written.delimiter + "'");
  }
  convert.csv.delimiter = written.delimiter[0];
  return options;
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
  Options options;
  Written written;
  CLI::App app(
      "Converts CSV files of bars to arrays that NumPy and FinancialDataset map: OUT_DIR/NAME/rows.npy [T, C],\n"
      "times.npy [T] and meta.json for each NAME.csv (or .csv.gz). A result takes its place when it is whole.");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_options(app, options, written);
  app.footer("Features: " + datasets::feature_names() + ".");
  if (!program::parse(app, argc, argv)) return std::nullopt;
  return resolve(std::move(options), std::move(written), app.count("--features") > 0);
}

}  // namespace torchfeed::convert
