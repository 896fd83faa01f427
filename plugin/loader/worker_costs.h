#pragma once

#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/loader/worker_tuner.h>

namespace torchfeed::loader {

/// What it costs to start such workers in this process as it is now, at most `options.workers` of them.
TunerLimits costs_of_workers(const FullDataLoaderOptions& options);

}  // namespace torchfeed::loader
