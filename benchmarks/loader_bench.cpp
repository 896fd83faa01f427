// Loaders side by side: workloads x settings, repeats interleaved, medians.
//   build/bin/loader_bench --workers 0,1,2,4,auto --step-ms 0,5
#include <torchfeed/plugin/data_loader_options.h>

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "loader_bench/epoch.h"

namespace torchfeed::bench {
namespace {

struct Options {
  std::vector<std::string> workloads = workload_names();
  std::vector<std::string> loaders{"torchfeed"};
  std::vector<std::string> modes{"process"};
  std::vector<std::string> workers{"0", "1", "2", "4", "auto"};
  std::vector<double> step_ms{0};
  std::size_t batch_size = 32;
  std::size_t prefetch_factor = 2;
  int repeats = 3;
  double seconds = 3;
  std::string json;
};

/// A setting's medians over all repeats.
struct Row {
  Setting setting;
  std::vector<Epoch> epochs;

  double median(double (*value)(const Epoch&)) const {
    std::vector<double> values;
    for (const Epoch& epoch : epochs) {
      values.push_back(value(epoch));
    }
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  /// Batches a second, but for the epoch's beginning.
  double pace() const {
    return median(
        [](const Epoch& epoch) { return static_cast<double>(epoch.settled_batches) / epoch.settled_seconds; });
  }
};

std::vector<Setting> settings_of(const Options& options) {
  std::vector<Setting> settings;
  for (const std::string& loader : options.loaders) {
    if (loader != "torchfeed" && loader != "torch_data") {
      throw std::invalid_argument("--loaders: expected torchfeed or torch_data, got " + loader);
    }
    const bool ours = loader == "torchfeed";
    for (const std::string& mode : ours ? options.modes : std::vector<std::string>{"thread"}) {
      if (mode != "process" && mode != "thread") {
        throw std::invalid_argument("--modes: expected process or thread, got " + mode);
      }
      for (const std::string& text : options.workers) {
        Setting setting;
        setting.library = ours ? Library::kTorchfeed : Library::kTorchData;
        setting.mode = mode == "thread" ? WorkerMode::kThread : WorkerMode::kProcess;
        if (text == "auto") {
          setting.workers = kAuto;
        } else {
          std::size_t used = 0;
          setting.workers = text.empty() || text.find_first_not_of("0123456789") != std::string::npos
                                ? -2
                                : std::stoll(text.substr(0, 9), &used);
          if (setting.workers < 0 || setting.workers > 1024) {
            throw std::invalid_argument("--workers: expected 0 to 1024 or auto, got " + text);
          }
        }
        const bool twice = std::any_of(settings.begin(), settings.end(),
                                       [&](const Setting& other) { return other.name() == setting.name(); });
        if (!twice && (ours || setting.workers != kAuto)) {
          settings.push_back(setting);
        }
      }
    }
  }
  return settings;
}

/// As many batches as an inline loader makes in the time given, but at least 100.
std::size_t batches_for(Task task, double seconds) {
  const Setting inline_setting;
  for (task.batches = 8;; task.batches *= 4) {
    const Epoch epoch = run_epoch(inline_setting, task);
    const double pace = static_cast<double>(epoch.settled_batches) / epoch.settled_seconds;
    if (epoch.seconds > 0.05 * seconds || task.batches > 1'000'000) {
      return static_cast<std::size_t>(std::clamp(pace * seconds, 100.0, 2e6));
    }
  }
}

void print_row(const Row& row, double best, double without, const Options& options) {
  const double pace = row.pace();
  std::printf("  %-20s %12.0f %9.2f %9.2f %9.2f %8.2f %6.0f%%", row.setting.name().c_str(),
              pace * static_cast<double>(options.batch_size), 1e6 / pace,
              1e6 * row.median([](const Epoch& epoch) { return epoch.p50; }),
              1e6 * row.median([](const Epoch& epoch) { return epoch.p99; }),
              1e3 * row.median([](const Epoch& epoch) { return epoch.first_batch; }),
              100 * row.median([](const Epoch& epoch) { return epoch.waiting / epoch.seconds; }));
  if (row.setting.workers == kAuto) {
    if (best > 0) {
      std::printf("  %.3f of the best fixed", pace / best);
    }
    if (without > 0) {
      std::printf(", %.3f of inline", pace / without);
    }
    for (const WorkerChange& change : row.epochs.back().stats->worker_changes) {
      std::printf(" %d>%d@%llu", change.from, change.to, static_cast<unsigned long long>(change.batch));
    }
  }
  std::printf("\n");
}

nlohmann::json json_of(const Row& row, const Task& task) {
  nlohmann::json epochs = nlohmann::json::array();
  for (const Epoch& epoch : row.epochs) {
    epochs.push_back({{"seconds", epoch.seconds},
                      {"first_batch_seconds", epoch.first_batch},
                      {"settled_seconds", epoch.settled_seconds},
                      {"settled_batches", epoch.settled_batches},
                      {"waiting_seconds", epoch.waiting},
                      {"p50_seconds", epoch.p50},
                      {"p99_seconds", epoch.p99},
                      {"workers", epoch.stats ? epoch.stats->workers : static_cast<int>(row.setting.workers)}});
  }
  return {{"setting", row.setting.name()},
          {"step_ms", task.step_ms},
          {"batches", task.batches},
          {"samples_per_second", row.pace() * static_cast<double>(task.batch_size)},
          {"epochs", epochs}};
}

int run(const Options& options) {
  const std::vector<Setting> settings = settings_of(options);
  std::vector<Task> tasks;
  for (const std::string& name : options.workloads) {
    for (const double step_ms : options.step_ms) {
      tasks.push_back({workload_of(name), step_ms, options.batch_size, 1, options.prefetch_factor});
    }
  }
  std::printf("LibTorch %s, %d CPUs, %d intra-op threads; batches of %zu, prefetch_factor %zu, %d repeats, medians\n",
              TORCH_VERSION, get_nprocs(), at::get_num_threads(), options.batch_size, options.prefetch_factor,
              options.repeats);
  nlohmann::json report{{"libtorch", TORCH_VERSION},
                        {"cpus", get_nprocs()},
                        {"intra_op", at::get_num_threads()},
                        {"batch_size", options.batch_size},
                        {"prefetch_factor", options.prefetch_factor},
                        {"repeats", options.repeats},
                        {"rows", nlohmann::json::array()}};
  compute_for(0.1);  // finds out how fast this machine is
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    Task& task = tasks[i];
    task.batches = batches_for(task, options.seconds);
    const std::string& name = options.workloads[i / options.step_ms.size()];
    std::printf("\n%s, steps of %g ms, %zu batches\n", name.c_str(), task.step_ms, task.batches);
    std::printf("  %-20s %12s %9s %9s %9s %8s %7s\n", "", "samples/s", "us/batch", "p50 us", "p99 us", "first ms",
                "waiting");
    std::vector<Row> rows;
    for (const Setting& setting : settings) {
      rows.push_back({setting, {}});
    }
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      for (Row& row : rows) {
        row.epochs.push_back(run_epoch(row.setting, task));
      }
    }
    double best = 0;
    double without = 0;
    for (const Row& row : rows) {
      if (row.setting.library == Library::kTorchfeed && row.setting.workers != kAuto) {
        best = std::max(best, row.pace());
        without = row.setting.workers == 0 ? row.pace() : without;
      }
    }
    for (const Row& row : rows) {
      print_row(row, best, without, options);
      report["rows"].push_back(json_of(row, task));
      report["rows"].back()["workload"] = name;
    }
    std::fflush(stdout);
  }
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << report.dump(1) << '\n';
    if (!file.flush()) {
      throw std::runtime_error(options.json + ": cannot be written");
    }
  }
  return 0;
}

}  // namespace
}  // namespace torchfeed::bench

int main(int argc, char** argv) {
  torchfeed::bench::Options options;
  CLI::App app("Compares loaders and their settings, side by side on this machine.", "loader_bench");
  app.add_option("--workloads", options.workloads, "windows, windows_batch, images, burn, wait, tail, noop")
      ->delimiter(',');
  app.add_option("--loaders", options.loaders, "torchfeed, torch_data")->delimiter(',')->capture_default_str();
  app.add_option("--modes", options.modes, "torchfeed's workers: process, thread")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--workers", options.workers, "numbers of workers, and auto")->delimiter(',')->capture_default_str();
  app.add_option("--step-ms", options.step_ms, "milliseconds of computing a batch, in the training loop")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 10'000.0))
      ->capture_default_str();
  app.add_option("--batch-size", options.batch_size)->check(CLI::Range(1, 1'000'000))->capture_default_str();
  app.add_option("--prefetch-factor", options.prefetch_factor, "batches ahead, a worker")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "epochs of each setting, interleaved")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "an inline epoch takes about so long")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--json", options.json, "a file for all figures");
  CLI11_PARSE(app, argc, argv);
  try {
    return torchfeed::bench::run(options);
  } catch (const std::exception& error) {
    std::cerr << "loader_bench: " << error.what() << '\n';
    return 2;
  }
}
