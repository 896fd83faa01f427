#pragma once

#include <torchfeed/plugin/compare/loader_figures.h>

#include <nlohmann/json.hpp>

#include <string>

#include "limits.h"
#include "options.h"

namespace torchfeed::bench {

/// All that is told but for rows: {"schema", "machine", "versions", "settings", "rows": []}.
nlohmann::json report_without_rows(const Options& options);

/// A row of the report.
nlohmann::json row_of(const Setting& setting, const Task& task, const LoaderFigures& figures);
nlohmann::json row_of_limit(std::int64_t workers, const Task& task, const Limit& limit);

/// Throws std::system_error, which names the file, if it cannot be written.
void write_report(const std::string& path, const nlohmann::json& report);

/// Throws std::invalid_argument, which names the file, if it is no report.
nlohmann::json read_report(const std::string& path);

}  // namespace torchfeed::bench
