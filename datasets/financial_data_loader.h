#pragma once

#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/samplers/block_shuffle_sampler.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace torchfeed {

/// Options of `make_financial_data_loader`, for designated initialisers. Each is the one of `DataLoaderOptions` with
/// its name, which tells more and checks the ranges.
struct FinancialLoaderOptions {
  /// Windows a batch. Default: 32.
  std::size_t batch_size = 32;
  /// Default: kAuto, which measures, starts without workers and adds them where they pay.
  std::int64_t num_workers = kAuto;
  /// Whether 0 workers, too, means kAuto, within the threading plan in force. Default: true; with false, 0 is inline.
  bool auto_threading = true;
  /// Of what is random in batches, and of the order where the sampler is made here and takes a seed: `ShuffleSampler`
  /// and `BlockShuffleSampler`, or any that is made from a size and a seed. torch::data's take torch's default
  /// generator
  /// (`torch::manual_seed`) in any case, and a sampler of one's own brings its seed along. Default: none, drawn from
  /// torch's default generator.
  std::optional<std::uint64_t> seed = std::nullopt;
  /// Default: false, the last batch of an epoch may be smaller.
  bool drop_last = false;
  /// Batches asked for ahead, a worker. Default: 2.
  std::size_t prefetch_factor = 2;
  /// Default: true, workers live on after an epoch.
  bool persistent_workers = true;
  /// Default: true, batches come in the sampler's order.
  bool in_order = true;
  /// Default: false.
  bool pin_memory = false;
  /// Default: processes.
  WorkerMode worker_mode = WorkerMode::kProcess;

  operator DataLoaderOptions() const {
    return DataLoaderOptions(batch_size)
        .num_workers(num_workers)
        .auto_threading(auto_threading)
        .seed(seed)
        .drop_last(drop_last)
        .prefetch_factor(prefetch_factor)
        .persistent_workers(persistent_workers)
        .in_order(in_order)
        .pin_memory(pin_memory)
        .worker_mode(worker_mode);
  }
};

/// A loader that chooses for itself how to make the batches of a market: shuffled anew in each epoch, for training, by
/// as many workers as pay. For the order of time:
/// `make_financial_data_loader<torch::data::samplers::SequentialSampler>`, or any sampler that is made from a size.
///
/// Throws c10::Error for options out of range, and as `DataLoader`'s constructor.
template <typename Sampler = samplers::ShuffleSampler>
std::unique_ptr<DataLoader<datasets::FinancialDataset, Sampler>> make_financial_data_loader(
    datasets::FinancialDataset dataset, const FinancialLoaderOptions& options = {}) {
  const std::size_t size = *dataset.size();
  if constexpr (std::is_constructible_v<Sampler, std::size_t, std::optional<std::uint64_t>>) {
    return make_data_loader(std::move(dataset), Sampler(size, options.seed), DataLoaderOptions(options));
  } else if constexpr (std::is_constructible_v<Sampler, std::size_t, samplers::BlockShuffleOptions>) {
    return make_data_loader(std::move(dataset), Sampler(size, samplers::BlockShuffleOptions{.seed = options.seed}),
                            DataLoaderOptions(options));
  } else {
    return make_data_loader(std::move(dataset), Sampler(size), DataLoaderOptions(options));
  }
}

/// The same with a sampler of one's own.
template <typename Sampler>
std::unique_ptr<DataLoader<datasets::FinancialDataset, Sampler>> make_financial_data_loader(
    datasets::FinancialDataset dataset, Sampler sampler, const FinancialLoaderOptions& options = {}) {
  return make_data_loader(std::move(dataset), std::move(sampler), DataLoaderOptions(options));
}

}  // namespace torchfeed
