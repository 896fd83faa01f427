#pragma once

#include <torchfeed/plugin/compare/comparison.h>
#include <torchfeed/plugin/compare/limited_sampler.h>
#include <torchfeed/plugin/compare/loader_figures.h>
#include <torchfeed/plugin/compare/measured_loader.h>
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/endless_sampler.h>

#include <torch/data/samplers/random.h>

#include <c10/util/Exception.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed {

/// Options of `compare_settings`.
struct CompareOptions {
  /// How often each setting is run, at least 1. Default: 3.
  int repeats = 3;
  /// How long a run is timed, above 0 ms; at least four batches. One of kAuto, which finds its pace while it runs,
  /// three times as long. Its pace, and so the star, is that of the steady part. A run takes some short epochs and the
  /// dataset's making more. Default: 1 s.
  std::chrono::milliseconds time{1000};
  /// Whether the table goes to stdout, and on the way there how far it is to stderr. Default: true.
  bool print = true;
};

/// A setting and what it gave.
struct SettingsRow : LoaderFigures {
  DataLoaderOptions options;
};

/// What to try on this machine, all else as in `base`: inline, kAuto, and by powers of two up to twice the cores that
/// this process may use, but at least 4, workers that are processes and workers that are threads.
std::vector<DataLoaderOptions> settings_to_compare(const DataLoaderOptions& base = DataLoaderOptions(32));

/// The table that compare_settings prints. The best row is marked with a star, which goes by the steady part of each
/// run: what kAuto's trials cost is in its row's `whole` pace alone.
std::string table_of(const std::vector<SettingsRow>& rows);

namespace compare {

/// The dataset's sampler, ended by who shares `left`.
template <typename Sampler, typename Dataset>
auto limited_sampler(const Dataset& dataset, std::shared_ptr<std::size_t> left) {
  if constexpr (Dataset::is_stateful) {
    using Endless = loader::EndlessSampler<typename Dataset::BatchRequestType>;
    return LimitedSampler<Endless>(Endless(), std::move(left));
  } else {
    const auto size = dataset.size();
    TORCH_CHECK(size.has_value(), "compare_settings: expected a dataset that has a size, got one without");
    return LimitedSampler<Sampler>(Sampler(*size), std::move(left));
  }
}

using MakeMeasured = std::function<std::unique_ptr<MeasuredLoader>(const DataLoaderOptions&)>;

/// The compiled part of compare_settings().
std::vector<SettingsRow> compare_rows(const std::vector<DataLoaderOptions>& settings, const MakeMeasured& make,
                                      const CompareOptions& options);

}  // namespace compare

/// Measures which setting of the loader trains fastest here: runs loaders over the caller's own dataset, each batch
/// through the caller's own step, with all settings in turn, `repeats` times. Returns a row for each, in the order of
/// `settings`; units and definitions are those of LoaderFigures.
///
///     const auto rows = torchfeed::compare_settings([&] { return dataset; }, {}, [&](auto& batch) { train(batch); });
///
/// `make_dataset()` gives the dataset of one loader, by value; it is called for each run, and not timed. `Sampler` is
/// made from its size, as in make_data_loader; a stateful dataset has none. `settings`: empty for
/// settings_to_compare(). `step(batch)` is called in this thread, once for each batch. It changes what it changes: give
/// it a copy of the model where that matters. Epochs follow each other until the time is over; a longer one is cut.
///
/// Call it where training would begin: in the thread that trains, with the threads set that it trains with, and what it
/// keeps in memory there, as workers are forked from this process.
///
/// Whatever is thrown with one setting, by dataset, loader or step, is its row's `error`, and the others go on. Throws
/// c10::Error for options out of their range.
template <typename Sampler = torch::data::samplers::RandomSampler, typename MakeDataset, typename Step>
std::vector<SettingsRow> compare_settings(MakeDataset make_dataset, const std::vector<DataLoaderOptions>& settings,
                                          Step step, const CompareOptions& options = {}) {
  return compare::compare_rows(
      settings,
      [&](const DataLoaderOptions& setting) {
        auto make_loader = [dataset = make_dataset(), setting](std::shared_ptr<std::size_t> left) mutable {
          auto sampler = compare::limited_sampler<Sampler>(dataset, std::move(left));
          using Loader = DataLoader<std::decay_t<decltype(dataset)>, decltype(sampler)>;
          return std::make_unique<Loader>(std::move(dataset), std::move(sampler), setting);
        };
        return compare::measured_loader(std::move(make_loader), std::ref(step), setting.batch_size());
      },
      options);
}

}  // namespace torchfeed
