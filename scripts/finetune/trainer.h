#pragma once

#include <torch/optim/adamw.h>
#include <torchfeed/datasets/financial_data_loader.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "model.h"
#include "options.h"
#include "progress.h"

namespace torchfeed::finetune {

/// Trains a model with AdamW on the mean squared error, keeps the one with the best validation loss, and writes a
/// checkpoint at the start, after each epoch and when a signal asks for a stop.
class Trainer {
 public:
  /// `identity` goes into checkpoints. Forks the loader's workers.
  Trainer(const Options& options, const datasets::FinancialDataset& dataset, Model model, nlohmann::json identity,
          Progress& progress);

  /// Starts from the model as it is: validates it, seeds torch's generator, writes the first checkpoint.
  void start();

  /// Takes up the run that the checkpoint belongs to.
  void resume(const Checkpoint& checkpoint);

  /// Trains to the end. False if a signal asked for a stop; the checkpoint to go on from has been written then.
  bool train();

  const TrainingState& state() const { return state_; }
  /// Samples trained in the epoch that is under way.
  int64_t samples_of_epoch() const { return state_.loss_count; }
  int num_workers() const { return loader_->stats().workers; }

  /// TorchScript file of the model with the best validation loss, in evaluation mode.
  const std::string& best_model() const { return best_model_; }

  const std::string& checkpoint_path() const { return checkpoint_path_; }

 private:
  using Loader = DataLoader<datasets::FinancialDataset, samplers::ShuffleSampler>;

  void make_optimizer();
  bool finished() const;
  bool train_epoch();
  double validate();
  double train_step(const torch::data::Example<>& batch);
  void end_epoch();
  void set_learning_rate();
  void save_checkpoint() const;
  void account();
  EpochProgress epoch_progress() const;

  /// What this process did of the epoch that is under way.
  struct Meter {
    double seconds = 0;
    double wait_seconds = 0;
    int64_t samples = 0;
  };

  Options options_;
  datasets::FinancialDataset train_data_;
  datasets::FinancialDataset validation_data_;
  Model model_;
  nlohmann::json identity_;
  Progress& progress_;
  std::string checkpoint_path_;
  int64_t total_steps_;
  std::unique_ptr<Loader> loader_;
  std::vector<torch::Tensor> parameters_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  TrainingState state_;
  std::string best_model_;
  Meter meter_;
};

/// One step on one batch: loss, gradient, clipping, update. Returns the loss; where that is not finite, nothing
/// changes.
double training_step(Model& model, torch::optim::AdamW& optimizer, const std::vector<torch::Tensor>& parameters,
                     double clip, const torch::data::Example<>& batch);

/// The trainer's step on a copy of the model, to time it with batches of the training part: the model stays as it is.
std::function<void(const torch::data::Example<>&)> practice_on_batches(const Options& options, Model model);

/// The trainer's step on a copy of the model and one batch of the training part, again and again, to time it. Nothing
/// of the training is changed but torch's default generator, which start() and resume() set.
std::function<void()> practice_step(const Options& options, const datasets::FinancialDataset& dataset, Model model);

/// What the learning rate is multiplied by in `step` of `total_steps`.
double schedule_factor(const std::string& schedule, int64_t step, int64_t total_steps);

}  // namespace torchfeed::finetune
