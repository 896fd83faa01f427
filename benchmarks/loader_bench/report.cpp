#include "report.h"

#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/topology.h>

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace torchfeed::bench {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

/// /proc/cpuinfo has it on x86-64; else the architecture.
std::string cpu_name(const utsname& system) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return system.machine;
}

json machine() {
  utsname system{};
  ::uname(&system);
  struct sysinfo memory {};
  ::sysinfo(&memory);
  const double bytes = static_cast<double>(memory.totalram) * memory.mem_unit;
  return {{"cpu", cpu_name(system)},
          {"logical_cpus", threading::available_cpus().size()},
          {"physical_cores", threading::load_topology().physical_cores},
          {"memory_gb", std::round(bytes / 1e8) / 10},
          {"kernel", system.release}};
}

json settings(const Options& options) {
  return {{"batch_size", options.batch_size},
          {"prefetch_factor", options.prefetch_factor},
          {"repeats", options.repeats},
          {"seconds", options.seconds},
          {"auto_seconds", options.auto_seconds},
          {"step_ms", options.step_ms},
          {"intra_op", at::get_num_threads()},
          {"interop", at::get_num_interop_threads()},
          {"torch_data", "max_jobs = prefetch_factor * workers"},
          {"samples_per_second", "without the first 50 or 5 % of the batches and those in flight at the end"}};
}

const char* mode_of(const Setting& setting) {
  return setting.workers == 0 ? "inline" : setting.mode == WorkerMode::kProcess ? "process" : "thread";
}

json workers_of(std::int64_t workers) { return workers == kAuto ? json("auto") : json(workers); }

json row_for(const Task& task, const char* loader, const char* mode, bool in_order, std::int64_t workers) {
  return {{"workload", name_of(task.workload)},
          {"loader", loader},
          {"mode", mode},
          {"in_order", in_order},
          {"workers", workers_of(workers)},
          {"step_ms", task.step_ms},
          {"batch_size", task.batch_size}};
}

void add_pace(json& row, const LoaderFigures& figures) {
  row.update({{"samples_per_second", figures.samples_per_second},
              {"samples_per_second_low", figures.samples_per_second_low},
              {"samples_per_second_high", figures.samples_per_second_high},
              {"first_batch_ms", figures.first_batch_ms},
              {"us_per_batch_p50", figures.us_per_batch_p50}});
}

}  // namespace

json report_without_rows(const Options& options) {
  return {{"schema", kSchema},
          {"machine", machine()},
          {"versions", {{"torchfeed", TORCHFEED_VERSION}, {"libtorch", TORCH_VERSION}}},
          {"settings", settings(options)},
          {"rows", json::array()}};
}

json row_of(const Setting& setting, const Task& task, const LoaderFigures& figures) {
  const bool ours = setting.library == Library::kTorchfeed;
  json row = row_for(task, ours ? "torchfeed" : "torch_data", mode_of(setting), setting.in_order, setting.workers);
  row["repeats"] = figures.repeats;
  if (!figures.error.empty()) {
    row["error"] = figures.error;
  }
  if (figures.repeats == 0) {
    return row;
  }
  add_pace(row, figures);
  json changes = json::array();
  for (const WorkerChange& change : figures.worker_changes) {
    changes.push_back({{"batch", change.batch}, {"from", change.from}, {"to", change.to}, {"reason", change.reason}});
  }
  row.update({{"batches", figures.batches},
              {"us_per_batch_p99", figures.us_per_batch_p99},
              {"whole_samples_per_second", figures.whole_samples_per_second},
              {"first_batch_ms_low", figures.first_batch_ms_low},
              {"first_batch_ms_high", figures.first_batch_ms_high},
              {"later_first_batch_ms", figures.later_first_batch_ms},
              {"turnaround_ms", figures.turnaround_ms},
              {"waiting_share", figures.waiting_share},
              {"trainer_cpu_seconds", figures.trainer_cpu_seconds},
              {"worker_cpu_seconds", figures.worker_cpu_seconds},
              {"peak_pss_mb", figures.peak_pss_mb},
              {"added_pss_mb", figures.added_pss_mb},
              {"descriptors", figures.descriptors},
              {"copied_batches", figures.copied_batches},
              {"worker_changes", changes}});
  return row;
}

json row_of_limit(std::int64_t workers, const Task& task, const Limit& limit) {
  json row = row_for(task, "limit", "inline", true, workers);
  add_pace(row, limit.figures);
  row["batches"] = limit.figures.batches;
  row["how"] = limit.how;
  return row;
}

void write_report(const std::string& path, const json& report) {
  errno = 0;
  std::ofstream file(path);
  file << report.dump(1, ' ', false, json::error_handler_t::replace) << '\n';
  if (!file.flush()) {
    throw std::system_error(errno, std::generic_category(), path);
  }
}

json read_report(const std::string& path) {
  std::ifstream file(path);
  json report = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object() || !report.contains("rows") || !report["rows"].is_array()) {
    throw std::invalid_argument(path + ": expected what loader_bench --json writes");
  }
  if (report.value("schema", json()) != kSchema) {
    throw std::invalid_argument(path + ": expected schema " + std::to_string(kSchema) + ", got " +
                                report.value("schema", json()).dump());
  }
  return report;
}

}  // namespace torchfeed::bench
