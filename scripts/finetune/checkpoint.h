#pragma once

#include <torch/torch.h>
#include <torchfeed/plugin/loader_state.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace torchfeed::finetune {

/// The plain numbers of a run, as far as it has come.
struct TrainingState {
  int64_t epoch = 0;       ///< epochs that are complete
  int64_t step = 0;        ///< optimizer steps so far; the learning rate follows from it
  double loss_sum = 0;     ///< over the samples of the epoch that is under way
  int64_t loss_count = 0;  ///< those samples
  std::vector<double> train_loss;
  std::vector<double> validation_loss;
  double best_validation = 0;
  int64_t best_epoch = 0;    ///< 0: the model as it came
  double train_seconds = 0;  ///< in training batches, not in validation
  double wait_seconds = 0;   ///< of these, waiting for data
  int64_t trained_samples = 0;
};

/// All that a run needs to go on as if it had not been stopped.
struct Checkpoint {
  nlohmann::json identity;  ///< options and input files that the result depends on
  TrainingState state;
  std::string model;       ///< TorchScript file of the model in training
  std::string best_model;  ///< TorchScript file of the model with the best validation loss
  std::string optimizer;   ///< its archive
  LoaderState loader;
  torch::Tensor generator;  ///< state of torch's default CPU generator

  /// Throws program::InputError; the file that was there is there then as before.
  void save(const std::string& path) const;

  /// Throws program::InputError if the file cannot be read or is no checkpoint.
  static Checkpoint load(const std::string& path);
};

/// Throws program::InputError that names the first difference between a checkpoint's identity and this run's.
void check_identity(const std::string& path, const nlohmann::json& saved, const nlohmann::json& now);

}  // namespace torchfeed::finetune
