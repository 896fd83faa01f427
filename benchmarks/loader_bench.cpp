// Loaders side by side: workloads x steps x settings, repeats interleaved, medians and spread.
//   build/bin/loader_bench --loaders torchfeed,torch_data --workers 0,1,2,4,auto --step-ms 0,5 --json figures.json
#include <torchfeed/plugin/compare/comparison.h>
#include <torchfeed/plugin/progress_bar.h>
#include <torchfeed/plugin/threading/topology.h>

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "loader_bench/baseline.h"
#include "loader_bench/candidates.h"
#include "loader_bench/limits.h"
#include "loader_bench/options.h"
#include "loader_bench/report.h"

namespace torchfeed::bench {
namespace {

std::vector<Task> tasks_of(const Options& options) {
  std::vector<Task> tasks;
  for (const Workload workload : options.workloads) {
    for (const double step_ms : options.step_ms) {
      tasks.push_back({workload, step_ms, options.batch_size, options.prefetch_factor});
    }
  }
  return tasks;
}

/// The task's loaders, and what it is to make its batches without any.
struct Field {
  std::vector<Setting> settings;  // of the first candidates, one each
  std::vector<compare::Candidate> candidates;
  bool has_work_alone = false;  // the last candidate
};

Field field_of(const Task& task, const Options& options) {
  Field field;
  for (const Setting& setting : options.settings) {
    if (has_candidate(setting, task)) {
      field.settings.push_back(setting);
      field.candidates.push_back(candidate(setting, task, options));
    }
  }
  if (auto alone = work_alone(task, options.seconds)) {
    field.candidates.push_back(std::move(*alone));
    field.has_work_alone = true;
  }
  return field;
}

double pace_of_best(const Field& field, const std::vector<LoaderFigures>& rows, bool (*counts)(const Setting&)) {
  double best = 0;
  for (std::size_t i = 0; i < field.settings.size(); ++i) {
    best = std::max(best, counts(field.settings[i]) ? rows[i].samples_per_second : 0);
  }
  return best;
}

/// What the table's figures are beside each other.
void print_ratios(const Field& field, const std::vector<LoaderFigures>& rows) {
  const double ours = pace_of_best(field, rows, [](const Setting& s) { return s.library == Library::kTorchfeed; });
  const double theirs = pace_of_best(field, rows, [](const Setting& s) { return s.library == Library::kTorchData; });
  const double fixed = pace_of_best(
      field, rows, [](const Setting& s) { return s.library == Library::kTorchfeed && s.workers != kAuto; });
  const double without =
      pace_of_best(field, rows, [](const Setting& s) { return s.library == Library::kTorchfeed && s.workers == 0; });
  if (ours > 0 && theirs > 0) {
    std::printf("  torchfeed's best: %.2fx torch_data's best\n", ours / theirs);
  }
  for (std::size_t i = 0; i < field.settings.size(); ++i) {
    if (field.settings[i].workers == kAuto && fixed > 0) {
      std::printf("  %s: %.3f of the best fixed setting", rows[i].name.c_str(), rows[i].samples_per_second / fixed);
      if (without > 0) {
        std::printf(", %.3f of inline", rows[i].samples_per_second / without);
      }
      std::printf("; with the first batches, its trials and its start: %.3f", rows[i].whole_samples_per_second / fixed);
      if (without > 0) {
        std::printf(", %.3f", rows[i].whole_samples_per_second / without);
      }
      std::printf("\n");
    }
  }
}

void add_limits(const Task& task, const Options& options, int cores, const LoaderFigures* alone, nlohmann::json& rows) {
  std::vector<std::int64_t> done;
  for (const Setting& setting : options.settings) {
    if (setting.workers == kAuto || std::find(done.begin(), done.end(), setting.workers) != done.end()) {
      continue;
    }
    done.push_back(setting.workers);
    if (const auto limit = limit_of(task, setting.workers, cores, alone)) {
      rows.push_back(row_of_limit(setting.workers, task, *limit));
      std::printf("  limit with %lld workers: %.0f samples/s, %s\n", static_cast<long long>(setting.workers),
                  limit->figures.samples_per_second, limit->how.c_str());
    }
  }
}

/// Measures a task, prints its table and adds its rows. Returns how many settings failed.
int run_task(const Task& task, const Field& field, const Options& options, int cores, ProgressBar& progress,
             nlohmann::json& rows) {
  const auto figures = compare::compare(field.candidates, options.repeats, [&] { progress.add(1); });
  std::vector<const LoaderFigures*> lines;
  for (const LoaderFigures& row : figures) {
    lines.push_back(&row);
  }
  std::printf("\n%s, steps of %g ms\n%s", name_of(task.workload).c_str(), task.step_ms,
              compare::table_of(lines).c_str());
  print_ratios(field, figures);
  for (std::size_t i = 0; i < field.settings.size(); ++i) {
    rows.push_back(row_of(field.settings[i], task, figures[i]));
  }
  add_limits(task, options, cores, field.has_work_alone ? &figures.back() : nullptr, rows);
  std::fflush(stdout);
  return static_cast<int>(
      std::count_if(figures.begin(), figures.end(), [](const LoaderFigures& row) { return !row.error.empty(); }));
}

int tell_baseline(const std::string& path, const BaselineComparison& comparison) {
  std::printf("\nbeside %s:\n", path.c_str());
  for (const std::string& note : comparison.notes) {
    std::printf("  %s\n", note.c_str());
  }
  for (const std::string& row : comparison.faster) {
    std::printf("  faster: %s\n", row.c_str());
  }
  for (const std::string& row : comparison.slower) {
    std::printf("  slower: %s\n", row.c_str());
  }
  std::printf("  %zu of %zu rows are slower beyond noise, %zu faster\n", comparison.slower.size(), comparison.compared,
              comparison.faster.size());
  return comparison.slower.empty() ? 0 : 1;
}

int run(const Options& options) {
  std::optional<nlohmann::json> baseline;
  if (!options.baseline.empty()) {
    baseline = read_report(options.baseline);
  }
  nlohmann::json report = report_without_rows(options);
  if (!options.json.empty()) {
    write_report(options.json, report);  // better now than after an hour
  }
  const int cores = report["machine"]["physical_cores"];
  std::printf(
      "LibTorch %s, %d cores, %d intra-op threads; batches of %zu, prefetch_factor %zu (torch_data: max_jobs "
      "%zu a worker), %d repeats of %g s (auto, which finds its pace meanwhile, %g s and %zu batches or more), "
      "medians; "
      "*: the fastest, or the first listed within 2 %% of it\n",
      TORCH_VERSION, cores, at::get_num_threads(), options.batch_size, options.prefetch_factor, options.prefetch_factor,
      options.repeats, options.seconds, std::max(options.seconds, options.auto_seconds), kLeastAutoBatches);
  compute_for(0.1);  // finds out how fast this machine is
  const std::vector<Task> tasks = tasks_of(options);
  std::size_t runs = 0;
  for (const Task& task : tasks) {
    runs += field_of(task, options).candidates.size() * static_cast<std::size_t>(options.repeats);
  }
  ProgressBar progress(runs, stderr, ProgressBar::Clock::now(), "runs");
  int failed = 0;
  for (const Task& task : tasks) {
    failed += run_task(task, field_of(task, options), options, cores, progress, report["rows"]);
    if (!options.json.empty()) {
      write_report(options.json, report);  // so that a run that is ended early has told what it knows
    }
  }
  const int code = baseline ? tell_baseline(options.baseline, compare_with_baseline(*baseline, report)) : 0;
  if (failed > 0) {
    std::cerr << "loader_bench: " << failed << " settings failed, see the table\n";
    return 2;
  }
  return code;
}

}  // namespace
}  // namespace torchfeed::bench

int main(int argc, char** argv) {
  try {
    const auto options = torchfeed::bench::parse_options(argc, argv);
    return options ? torchfeed::bench::run(*options) : 0;
  } catch (const std::exception& error) {
    std::cerr << "loader_bench: " << error.what() << '\n';
    return 2;
  }
}
