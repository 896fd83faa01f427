#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/load_instruments.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

namespace torchfeed::datasets::financial {
namespace {

namespace fs = std::filesystem;

bool is_converted(const fs::path& directory) {
  std::error_code ignored;
  return fs::is_regular_file(directory / "meta.json", ignored);
}

/// The directories that `convert` wrote below `path`, which may be one itself. Names that begin with a dot are left
/// out: they are under way.
std::vector<std::string> converted_below(const std::string& path) {
  if (is_converted(path)) return {path};
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    if (!entry->path().filename().string().starts_with('.') && is_converted(entry->path())) {
      found.push_back(entry->path().string());
    }
  }
  if (error) throw DataError(path + ": " + error.message());
  if (found.empty()) {
    throw DataError(path +
                    ": expected a CSV file, or a directory that convert wrote, got a directory without meta.json");
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// One that is read twice would count twice in the scales, and its past could be another's future.
void check_names(const std::vector<Instrument>& instruments) {
  std::map<std::string, const Instrument*> seen;
  for (const auto& instrument : instruments) {
    const auto [first, is_new] = seen.emplace(instrument.name, &instrument);
    if (is_new) continue;
    throw DataError(instrument.source + ": expected each instrument once, got '" + instrument.name + "' of " +
                    first->second->source + " again");
  }
}

}  // namespace

std::vector<Instrument> load_instruments(const std::vector<std::string>& paths, const FinancialOptions& options) {
  const auto access = options.lazy_loading ? FileAccess::kRandom : FileAccess::kNormal;
  std::vector<Instrument> instruments;
  for (const auto& path : paths) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      for (const auto& directory : converted_below(path)) instruments.push_back(open_converted(directory, access));
    } else {
      instruments.push_back(load_csv(path, options));
    }
  }
  check_names(instruments);
  return instruments;
}

std::vector<std::string> default_features(const std::vector<Instrument>& instruments) {
  std::vector<std::string> features;
  for (const char* name : {"log_return", "log_range", "log_volume_change", "log_close_open"}) {
    const bool in_all = std::all_of(instruments.begin(), instruments.end(),
                                    [&](const Instrument& instrument) { return instrument.find(name).has_value(); });
    if (in_all) features.emplace_back(name);
  }
  if (features.empty()) {
    for (const auto& instrument : instruments) instrument.column("log_return");  // throws, with the columns there are
  }
  return features;
}

}  // namespace torchfeed::datasets::financial
