#include "options.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>

#include "../../scripts/common/command_line.h"

namespace torchfeed::bench {
namespace {

constexpr std::int64_t kMostWorkers = 1024;

/// Lists as they were written.
struct Words {
  std::vector<std::string> workloads = workload_names();
  std::vector<std::string> loaders{"torchfeed"};
  std::vector<std::string> modes{"process"};
  std::vector<std::string> workers{"0", "1", "2", "4", "auto"};
  std::vector<std::string> in_order{"true"};
};

/// Which of two words a value is: the first, or the second.
bool is_first(const char* flag, const std::string& value, const std::string& first, const std::string& second) {
  if (value != first && value != second) {
    throw std::invalid_argument(std::string(flag) + ": expected " + first + " or " + second + ", got '" + value + "'");
  }
  return value == first;
}

std::int64_t workers_of(const std::string& text) {
  std::int64_t workers = -1;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, workers);
  if (text == "auto") {
    return kAuto;
  }
  if (read.ec != std::errc() || read.ptr != end || workers < 0 || workers > kMostWorkers) {
    throw std::invalid_argument("--workers: expected 0 to " + std::to_string(kMostWorkers) + " or auto, got '" + text +
                                "'");
  }
  return workers;
}

/// Every combination that there is, each once: torch::data has threads alone and no kAuto, and batches made inline have
/// neither a mode nor an order.
std::vector<Setting> settings_of(const Words& words) {
  std::vector<Setting> settings;
  const auto add = [&](const Setting& setting) {
    if (std::find(settings.begin(), settings.end(), setting) == settings.end()) {
      settings.push_back(setting);
    }
  };
  for (const std::string& loader : words.loaders) {
    const bool ours = is_first("--loaders", loader, "torchfeed", "torch_data");
    for (const std::string& mode : words.modes) {
      const bool thread = is_first("--modes", mode, "thread", "process");
      for (const std::string& order : words.in_order) {
        const bool in_order = is_first("--in-order", order, "true", "false");
        for (const std::string& text : words.workers) {
          Setting setting;
          setting.library = ours ? Library::kTorchfeed : Library::kTorchData;
          setting.workers = workers_of(text);
          if (setting.workers != 0) {
            setting.mode = thread || !ours ? WorkerMode::kThread : WorkerMode::kProcess;
            setting.in_order = in_order;
          }
          if (ours || setting.workers != kAuto) {
            add(setting);
          }
        }
      }
    }
  }
  if (settings.empty()) {
    throw std::invalid_argument("--workers: expected a number of workers, as torch_data has no auto");
  }
  return settings;
}

/// A list of words separated by commas.
void add_list(CLI::App& app, const char* flag, std::vector<std::string>& words, const char* help) {
  app.add_option(flag, words, help)->delimiter(',')->capture_default_str();
}

void add_numbers(CLI::App& app, Options& options) {
  app.add_option("--step-ms", options.step_ms, "Milliseconds of computing for each batch in the training loop")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 10'000.0))
      ->capture_default_str();
  app.add_option("--batch-size", options.batch_size, "Samples a batch")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--prefetch-factor", options.prefetch_factor,
                 "Batches ahead, a worker; torch_data: max_jobs by worker")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "Runs of each setting, all settings in turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "A run is timed for so long")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  app.add_option("--auto-seconds", options.auto_seconds,
                 "One of auto, which finds its pace while it runs, for so long, and 151 batches, at least")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
}

// CLI::Range lets NaN through, as NaN is neither below nor above.
void check_numbers(const Options& options) {
  if (std::any_of(options.step_ms.begin(), options.step_ms.end(), [](double step) { return std::isnan(step); })) {
    throw std::invalid_argument("--step-ms: expected 0 to 10000, got nan");
  }
  if (std::isnan(options.seconds) || std::isnan(options.auto_seconds)) {
    throw std::invalid_argument("--seconds, --auto-seconds: expected 0.001 to 3600, got nan");
  }
  if (!options.baseline.empty() && options.repeats < kLeastRepeatsToCompare) {
    throw std::invalid_argument("--repeats: expected at least " + std::to_string(kLeastRepeatsToCompare) +
                                " with --baseline, got " + std::to_string(options.repeats));
  }
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv) {
  Options options;
  Words words;
  CLI::App app(
      "Compares loaders and their settings, side by side on this machine: workloads x steps x settings. The table goes "
      "to stdout.\nExit code: 0; 1 if something is slower than in --baseline; 2 for errors.",
      "loader_bench");
  add_list(app, "--workloads", words.workloads, "What is loaded");
  add_list(app, "--loaders", words.loaders, "torchfeed, torch_data");
  add_list(app, "--modes", words.modes, "What torchfeed's workers are: process, thread");
  add_list(app, "--workers", words.workers, "Numbers of workers, and auto; 0: inline");
  add_list(app, "--in-order", words.in_order, "true, false: whether batches come in the sampler's order");
  add_numbers(app, options);
  app.add_option("--json", options.json, "File for all figures");
  app.add_option("--baseline", options.baseline,
                 "File that --json wrote before: tells what got slower since, beyond the spread of both runs' repeats")
      ->check(CLI::ExistingFile);
  if (!program::parse(app, argc, argv)) return std::nullopt;
  check_numbers(options);
  for (const std::string& name : words.workloads) {
    const Workload workload = workload_of(name);
    if (std::find(options.workloads.begin(), options.workloads.end(), workload) == options.workloads.end()) {
      options.workloads.push_back(workload);
    }
  }
  options.settings = settings_of(words);
  return options;
}

}  // namespace torchfeed::bench
