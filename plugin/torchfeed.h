#pragma once

// All of torchfeed.

#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/features.h>
#include <torchfeed/datasets/financial_data_loader.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/datasets/financial_options.h>
#include <torchfeed/datasets/mapped_tensor_dataset.h>
#include <torchfeed/datasets/npy/npy_writer.h>
#include <torchfeed/datasets/streaming_features.h>
#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/calibrate.h>
#include <torchfeed/plugin/compare_settings.h>
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/data_loader_options.h>
#include <torchfeed/plugin/errors.h>
#include <torchfeed/plugin/loader_state.h>
#include <torchfeed/plugin/loader_stats.h>
#include <torchfeed/plugin/parallel_map.h>
#include <torchfeed/plugin/progress_bar.h>
#include <torchfeed/plugin/stack.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <torchfeed/plugin/worker_info.h>
#include <torchfeed/samplers/block_shuffle_sampler.h>
#include <torchfeed/samplers/distributed_shuffle_sampler.h>
#include <torchfeed/samplers/shuffle_quality.h>
#include <torchfeed/samplers/shuffle_sampler.h>
#include <torchfeed/samplers/subset_sampler.h>
#include <torchfeed/samplers/walk_forward.h>
#include <torchfeed/samplers/weighted_random_sampler.h>

// What a training program needs of LibTorch beside it: TorchScript models, torch::data's datasets and samplers.
#include <torch/data.h>
#include <torch/script.h>
