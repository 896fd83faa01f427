#pragma once

#include <torchfeed/datasets/financial_dataset.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model.h"

namespace torchfeed::finetune {

/// Decay a day of the exponential mean among the baselines.
inline constexpr double kEwmaDecay = 0.85;

/// Mean squared errors of forecasts that need no training, on the same samples and scale as the model's. Each uses
/// what was known the day before alone.
struct Baselines {
  double mean = 0;             ///< mean of the training part's targets
  double persistence = 0;      ///< the day before
  double rolling_mean_10 = 0;  ///< mean of the 10 days before
  double ewma = 0;             ///< exponential mean of all the instrument's days before, kEwmaDecay
};

/// All that a run ends with.
struct Metrics {
  std::string target;
  int64_t epochs = 0;
  std::vector<double> train_loss;
  std::vector<double> validation_loss;
  double test_mse = 0;
  double base_model_test_mse = 0;
  Baselines baselines;
  double samples_per_second = 0;
  double data_wait_fraction = 0;
  int intra_op_threads = 0;
  int inter_op_threads = 0;
  int num_workers = 0;
  int64_t seed = 0;

  /// The text of metrics.json.
  std::string to_json() const;

  /// The model beside the base model and the baselines, best first.
  std::string to_table() const;
};

/// The model's mean squared error over all samples of `dataset`; puts the model into evaluation mode.
double mean_squared_error(Model& model, datasets::FinancialDataset& dataset);

/// The baselines' errors over the samples of `test`, with the mean taken from `train`.
Baselines compute_baselines(const datasets::FinancialDataset& train, const datasets::FinancialDataset& test);

}  // namespace torchfeed::finetune
