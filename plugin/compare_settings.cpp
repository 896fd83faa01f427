#include <torchfeed/plugin/compare_settings.h>
#include <torchfeed/plugin/progress_bar.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <optional>

namespace torchfeed {
namespace {

constexpr std::int64_t kLeastMostWorkers = 4;

bool is_inline(const DataLoaderOptions& options) { return options.num_workers() == 0 && !options.auto_threading(); }

/// Workers, and what is not as it would be by default; the batch size where `with_batch_size`.
std::string name_of(const DataLoaderOptions& options, bool with_batch_size) {
  const bool is_auto = options.num_workers() == kAuto || (options.num_workers() == 0 && options.auto_threading());
  std::string name = is_inline(options)
                         ? "inline"
                         : std::string(options.worker_mode() == WorkerMode::kThread ? "thread" : "process") + ' ' +
                               (is_auto ? "auto" : std::to_string(options.num_workers()));
  const DataLoaderOptions usual;
  if (with_batch_size) name += ", batches of " + std::to_string(options.batch_size());
  if (options.max_jobs()) {
    name += ", " + std::to_string(*options.max_jobs()) + " ahead";
  } else if (options.prefetch_factor() != usual.prefetch_factor()) {
    name += ", " + std::to_string(options.prefetch_factor()) + " ahead each";
  }
  if (!options.in_order()) name += ", out of order";
  if (!options.persistent_workers()) name += ", new workers each epoch";
  if (options.pin_memory()) name += ", pinned";
  if (options.shared_memory_budget()) name += ", " + std::to_string(*options.shared_memory_budget() >> 20) + " MiB";
  return name;
}

/// kAuto finds its pace while it runs.
constexpr double kAutoTimes = 3;

/// A process costs more than a thread, and one whose number nobody has chosen is chosen last.
double effort_of(const DataLoaderOptions& options) {
  if (is_inline(options)) return 0;
  const double workers = options.num_workers() > 0 ? static_cast<double>(options.num_workers()) : 1e6;
  return workers + (options.worker_mode() == WorkerMode::kProcess ? 0.5 : 0);
}

}  // namespace

std::vector<DataLoaderOptions> settings_to_compare(const DataLoaderOptions& base) {
  const auto cpus = static_cast<std::int64_t>(threading::available_cpus().size());
  std::vector<DataLoaderOptions> settings{DataLoaderOptions(base).num_workers(0).auto_threading(false)};
  for (const WorkerMode mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    for (std::int64_t workers = 1; workers <= std::max(2 * cpus, kLeastMostWorkers); workers *= 2) {
      settings.push_back(DataLoaderOptions(base).num_workers(workers).worker_mode(mode));
    }
    settings.push_back(DataLoaderOptions(base).num_workers(kAuto).worker_mode(mode));
  }
  return settings;
}

std::string table_of(const std::vector<SettingsRow>& rows) {
  return compare::table_of(std::vector<const LoaderFigures*>([&] {
    std::vector<const LoaderFigures*> figures;
    for (const SettingsRow& row : rows) figures.push_back(&row);
    return figures;
  }()));
}

namespace compare {

std::vector<SettingsRow> compare_rows(const std::vector<DataLoaderOptions>& settings, const MakeMeasured& make,
                                      const CompareOptions& options) {
  TORCH_CHECK(options.repeats >= 1, "CompareOptions: repeats: expected at least 1, got ", options.repeats);
  TORCH_CHECK(options.time.count() > 0, "CompareOptions: time: expected more than 0 ms, got ", options.time.count(),
              " ms");
  const std::vector<DataLoaderOptions> tried = settings.empty() ? settings_to_compare() : settings;
  const bool sizes_differ = std::any_of(tried.begin(), tried.end(), [&](const DataLoaderOptions& setting) {
    return setting.batch_size() != tried.front().batch_size();
  });
  std::vector<Candidate> candidates;
  for (const DataLoaderOptions& setting : tried) {
    RunPlan plan;
    plan.seconds = std::chrono::duration<double>(options.time).count();
    plan.workers = setting.workers();
    plan.workers_are_threads = setting.worker_mode() == WorkerMode::kThread;
    if (setting.num_workers() == kAuto) plan.seconds *= kAutoTimes;
    candidates.push_back(
        {name_of(setting, sizes_differ), [&make, setting] { return make(setting); }, plan, effort_of(setting)});
  }
  std::optional<ProgressBar> progress;
  if (options.print) {
    progress.emplace(candidates.size() * static_cast<std::size_t>(options.repeats), stderr, ProgressBar::Clock::now(),
                     "runs");
  }
  const auto figures = compare(candidates, options.repeats, [&] {
    if (progress) progress->add(1);
  });
  std::vector<SettingsRow> rows;
  for (std::size_t i = 0; i < figures.size(); ++i) rows.push_back({figures[i], tried[i]});
  if (options.print) {
    progress.reset();
    std::fputs(torchfeed::table_of(rows).c_str(), stdout);
  }
  return rows;
}

}  // namespace compare
}  // namespace torchfeed
