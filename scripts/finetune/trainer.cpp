#include "trainer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/utils/clip_grad.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <numeric>
#include <sstream>
#include <utility>

#include "../common/program.h"
#include "metrics.h"
#include "stop_signal.h"

namespace torchfeed::finetune {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int64_t steps_in_epoch(const Options& options, const datasets::FinancialDataset& train) {
  const auto samples = static_cast<int64_t>(*train.size());
  return (samples + options.batch_size - 1) / options.batch_size;
}

}  // namespace

double schedule_factor(const std::string& schedule, int64_t step, int64_t total_steps) {
  const double done = static_cast<double>(step) / static_cast<double>(total_steps);
  if (schedule == "cosine") return 0.5 * (1 + std::cos(std::numbers::pi * done));
  return done < 0.5 ? 1 : done < 0.75 ? 0.1 : 0.01;
}

double training_step(Model& model, torch::optim::AdamW& optimizer, const std::vector<torch::Tensor>& parameters,
                     double clip, const torch::data::Example<>& batch) {
  optimizer.zero_grad();
  const auto loss = torch::nn::functional::mse_loss(model.forward(batch.data), batch.target);
  const double value = loss.item<double>();
  if (!std::isfinite(value)) return value;
  loss.backward();
  torch::nn::utils::clip_grad_norm_(parameters, clip);
  optimizer.step();
  return value;
}

std::function<void(const torch::data::Example<>&)> practice_on_batches(const Options& options, Model model) {
  model.train();
  const auto parameters = model.trainable_parameters(options.freeze);
  // A rate of 0 takes the same time, and thousands of steps cannot run away.
  const auto optimizer = std::make_shared<torch::optim::AdamW>(
      parameters, torch::optim::AdamWOptions(0).weight_decay(options.weight_decay));
  return [=, clip = options.clip](const torch::data::Example<>& batch) mutable {
    training_step(model, *optimizer, parameters, clip, batch);
  };
}

std::function<void()> practice_step(const Options& options, const datasets::FinancialDataset& dataset, Model model) {
  auto train = dataset.split(datasets::Split::kTrain);
  std::vector<size_t> indices(std::min(static_cast<size_t>(options.batch_size), *train.size()));
  std::iota(indices.begin(), indices.end(), size_t{0});
  return [batch = train.get_batch(indices), practice = practice_on_batches(options, std::move(model))] {
    practice(batch);
  };
}

Trainer::Trainer(const Options& options, const datasets::FinancialDataset& dataset, Model model,
                 nlohmann::json identity, Progress& progress)
    : options_(options),
      train_data_(dataset.split(datasets::Split::kTrain)),
      validation_data_(dataset.split(datasets::Split::kValidation)),
      model_(std::move(model)),
      identity_(std::move(identity)),
      progress_(progress),
      checkpoint_path_(options.output + "/checkpoint.pt"),
      total_steps_(options.epochs * steps_in_epoch(options, train_data_)) {
  loader_ = make_financial_data_loader(train_data_, {.batch_size = static_cast<size_t>(options.batch_size),
                                                     .num_workers = options.num_workers,
                                                     .auto_threading = false,
                                                     .seed = static_cast<uint64_t>(options.seed)});
}

void Trainer::start() {
  make_optimizer();
  state_.best_validation = validate();
  best_model_ = model_.bytes();
  torch::manual_seed(static_cast<uint64_t>(options_.seed));
  save_checkpoint();
}

void Trainer::resume(const Checkpoint& checkpoint) {
  model_ = Model(checkpoint.model, checkpoint_path_);
  make_optimizer();
  torch::serialize::InputArchive archive;
  archive.load_from(checkpoint.optimizer.data(), checkpoint.optimizer.size());
  optimizer_->load(archive);
  state_ = checkpoint.state;
  best_model_ = checkpoint.best_model;
  loader_->load_state(checkpoint.loader);
  auto generator = at::detail::getDefaultCPUGenerator();
  generator.set_state(checkpoint.generator);
}

void Trainer::make_optimizer() {
  parameters_ = model_.trainable_parameters(options_.freeze);
  optimizer_ = std::make_unique<torch::optim::AdamW>(
      parameters_, torch::optim::AdamWOptions(options_.learning_rate).weight_decay(options_.weight_decay));
}

bool Trainer::finished() const {
  return state_.epoch >= options_.epochs || state_.epoch - state_.best_epoch >= options_.patience;
}

bool Trainer::train() {
  while (!finished()) {
    if (!train_epoch()) return false;
    end_epoch();
  }
  return true;
}

bool Trainer::train_epoch() {
  const auto begin = std::chrono::steady_clock::now();
  const double waited_before = loader_->stats().wait_seconds;
  meter_ = {};
  model_.train();
  for (const auto& batch : *loader_) {
    const int64_t size = batch.data.size(0);
    state_.loss_sum += train_step(batch) * static_cast<double>(size);
    state_.loss_count += size;
    meter_.samples += size;
    meter_.seconds = seconds_since(begin);
    meter_.wait_seconds = loader_->stats().wait_seconds - waited_before;
    progress_.batch(epoch_progress());
    if (stop_signal() != 0) {
      account();
      save_checkpoint();
      return false;
    }
  }
  account();
  return true;
}

void Trainer::account() {
  state_.train_seconds += meter_.seconds;
  state_.wait_seconds += meter_.wait_seconds;
  state_.trained_samples += meter_.samples;
}

double Trainer::train_step(const torch::data::Example<>& batch) {
  set_learning_rate();
  const double value = training_step(model_, *optimizer_, parameters_, options_.clip, batch);
  if (!std::isfinite(value)) {
    std::ostringstream message;
    message << options_.model << ": the loss is not finite in step " << state_.step + 1 << " (epoch "
            << state_.epoch + 1 << "); try a --learning-rate below " << options_.learning_rate;
    throw program::InputError(message.str());
  }
  ++state_.step;
  return value;
}

double Trainer::validate() {
  const double loss = mean_squared_error(model_, validation_data_);
  if (std::isfinite(loss)) return loss;
  std::ostringstream message;
  message << options_.model << ": the validation loss is not finite after epoch " << state_.epoch + 1;
  // Batch norm's variance of one sample is none.
  if (*train_data_.size() % static_cast<size_t>(options_.batch_size) == 1) {
    message << "; the last of " << *train_data_.size() << " samples is a batch by itself, try another --batch-size";
  }
  throw program::InputError(message.str());
}

void Trainer::end_epoch() {
  const double validation_loss = validate();
  const EpochProgress progress = epoch_progress();
  state_.train_loss.push_back(state_.loss_sum / static_cast<double>(state_.loss_count));
  state_.validation_loss.push_back(validation_loss);
  ++state_.epoch;
  const bool is_best = validation_loss < state_.best_validation;
  if (is_best) {
    state_.best_validation = validation_loss;
    state_.best_epoch = state_.epoch;
    best_model_ = model_.bytes();
  }
  state_.loss_sum = 0;
  state_.loss_count = 0;
  save_checkpoint();
  progress_.epoch(progress, validation_loss, is_best);
}

void Trainer::set_learning_rate() {
  const double rate = options_.learning_rate * schedule_factor(options_.schedule, state_.step, total_steps_);
  for (auto& group : optimizer_->param_groups()) static_cast<torch::optim::AdamWOptions&>(group.options()).lr(rate);
}

void Trainer::save_checkpoint() const {
  Checkpoint checkpoint;
  checkpoint.identity = identity_;
  checkpoint.state = state_;
  checkpoint.model = model_.bytes();
  checkpoint.best_model = best_model_;
  torch::serialize::OutputArchive archive;
  optimizer_->save(archive);
  std::ostringstream optimizer;
  archive.save_to(optimizer);
  checkpoint.optimizer = optimizer.str();
  checkpoint.loader = loader_->state();
  checkpoint.generator = at::detail::getDefaultCPUGenerator().get_state();
  checkpoint.save(checkpoint_path_);
}

EpochProgress Trainer::epoch_progress() const {
  EpochProgress progress;
  progress.epoch = state_.epoch + 1;
  progress.epochs = options_.epochs;
  progress.samples = static_cast<size_t>(state_.loss_count);
  progress.epoch_samples = *train_data_.size();
  progress.train_loss = state_.loss_sum / static_cast<double>(state_.loss_count);
  // None, if the run was stopped behind the epoch's last batch and has just been resumed.
  if (meter_.samples > 0) {
    progress.samples_per_second = static_cast<double>(meter_.samples) / meter_.seconds;
    progress.wait_fraction = meter_.wait_seconds / meter_.seconds;
  }
  return progress;
}

}  // namespace torchfeed::finetune
