#include "loader_choice.h"

#include <torchfeed/plugin/compare_settings.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../common/program.h"
#include "trainer.h"

namespace torchfeed::finetune {
namespace {

constexpr std::chrono::milliseconds kTimeOfASetting{500};

/// As the trainer's loader, whose workers are processes.
std::vector<DataLoaderOptions> settings_to_try(const Options& options) {
  auto settings = settings_to_compare(
      DataLoaderOptions(static_cast<size_t>(options.batch_size)).seed(static_cast<uint64_t>(options.seed)));
  settings.erase(std::remove_if(settings.begin(), settings.end(),
                                [](const auto& setting) { return setting.worker_mode() != WorkerMode::kProcess; }),
                 settings.end());
  return settings;
}

}  // namespace

void print_loader_choice(const Options& options, const datasets::FinancialDataset& dataset, Model model) {
  const auto train = dataset.split(datasets::Split::kTrain);
  const auto rows = compare_settings<samplers::ShuffleSampler>([&] { return train; }, settings_to_try(options),
                                                               practice_on_batches(options, std::move(model)),
                                                               {.time = kTimeOfASetting, .print = false});
  std::fputs(table_of(rows).c_str(), stdout);
  const auto best = std::find_if(rows.begin(), rows.end(), [](const SettingsRow& row) { return row.best; });
  if (best == rows.end()) {
    throw program::InputError("--compare-settings: no setting of the loader works: " + rows.front().error);
  }
  std::printf(
      "choose --num-workers %lld: %.0f samples/s, %.2fx those of no workers; %.0f %% of the time goes into %s\n",
      static_cast<long long>(best->options.num_workers()), best->samples_per_second,
      best->samples_per_second / rows.front().samples_per_second, 100 * best->waiting_share,
      best->options.num_workers() == 0 ? "making batches" : "waiting for batches");
}

}  // namespace torchfeed::finetune
