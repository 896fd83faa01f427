/// Fine-tunes a TorchScript model on daily bars. See `finetune --help`.

#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/plugin/calibrate.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/program.h"
#include "finetune/checkpoint.h"
#include "finetune/loader_choice.h"
#include "finetune/metrics.h"
#include "finetune/model.h"
#include "finetune/options.h"
#include "finetune/progress.h"
#include "finetune/stop_signal.h"
#include "finetune/trainer.h"

namespace torchfeed::finetune {
namespace {

/// Ends the run: an error that is no number says nothing about a model, and cannot be compared.
void check_finite(double error, const std::string& model) {
  if (!std::isfinite(error)) {
    throw program::InputError(model + ": its error on the test part is not finite: its forecasts overflow there");
  }
}

using datasets::FinancialDataset;
using datasets::Split;
using program::InputError;

/// Everything that is read, checked before anything is written.
struct Inputs {
  FinancialDataset dataset;
  std::string model_bytes;
  nlohmann::json identity;
};

/// Two windows, or the only one.
torch::Tensor sample_input(const FinancialDataset& dataset) {
  auto train = dataset.split(Split::kTrain);
  std::vector<size_t> indices(std::min<size_t>(2, *train.size()));
  std::iota(indices.begin(), indices.end(), size_t{0});
  return train.get_batch(indices).data;
}

/// Of a converted directory's files, without reading all of its rows: their statistics differ where any row does.
uint64_t fingerprint_directory(const std::string& directory) {
  uint64_t hash = program::kFirstFingerprint;
  for (const char* file : {"/meta.json", "/times.npy", "/statistics.npy"}) {
    hash = program::fingerprint_file(directory + file, hash);
  }
  return hash;
}

/// Of every file or directory of the data.
std::vector<uint64_t> fingerprints(const FinancialDataset& dataset) {
  std::vector<uint64_t> all;
  for (size_t i = 0; i < dataset.instruments(); ++i) {
    const std::string& path = dataset.instrument_source(i);
    const bool is_file = !std::filesystem::is_directory(path);
    all.push_back(is_file ? program::fingerprint_file(path) : fingerprint_directory(path));
  }
  return all;
}

Inputs read_inputs(const Options& options) {
  Inputs inputs{FinancialDataset::open(options.data, options.dataset_options()), program::read_file(options.model),
                options.identity()};
  const size_t samples = *inputs.dataset.split(Split::kTrain).size();
  if (static_cast<size_t>(options.batch_size) > samples) {
    throw InputError("--batch-size: expected at most " + std::to_string(samples) +
                     ", the samples of the training part" + ", got " + std::to_string(options.batch_size));
  }
  Model model(inputs.model_bytes, options.model);
  model.check_shapes(sample_input(inputs.dataset));
  model.trainable_parameters(options.freeze);
  inputs.identity["model"] = program::fingerprint(inputs.model_bytes);
  inputs.identity["data"] = fingerprints(inputs.dataset);
  return inputs;
}

Metrics make_metrics(const Options& options, const FinancialDataset& dataset, const Trainer& trainer,
                     double base_model_test_mse) {
  const TrainingState& state = trainer.state();
  auto test = dataset.split(Split::kTest);
  Model best(trainer.best_model(), "model.pt");
  Metrics metrics;
  metrics.target = options.target;
  metrics.epochs = state.epoch;
  metrics.train_loss = state.train_loss;
  metrics.validation_loss = state.validation_loss;
  metrics.test_mse = mean_squared_error(best, test);
  check_finite(metrics.test_mse, "the fine-tuned model");
  metrics.base_model_test_mse = base_model_test_mse;
  metrics.baselines = compute_baselines(dataset.split(Split::kTrain), test);
  metrics.samples_per_second = static_cast<double>(state.trained_samples) / state.train_seconds;
  metrics.data_wait_fraction = state.wait_seconds / state.train_seconds;
  metrics.intra_op_threads = at::get_num_threads();
  metrics.inter_op_threads = at::get_num_interop_threads();
  metrics.num_workers = trainer.num_workers();
  metrics.seed = options.seed;
  return metrics;
}

std::string describe(const FinancialDataset& dataset, const char* name, Split part) {
  const auto view = dataset.split(part);
  std::ostringstream line;
  line << name << ' ' << *view.size() << " samples " << view.first_target_date() << " to " << view.last_target_date();
  return line.str();
}

std::string without_end(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

int report_stop(const Options& options, const Trainer& trainer, Progress& progress) {
  const int signal = stop_signal();
  progress.line(std::string("stopped by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM") + " in epoch " +
                std::to_string(trainer.state().epoch + 1) + " after " + std::to_string(trainer.samples_of_epoch()) +
                " samples; saved in " + trainer.checkpoint_path());
  progress.line("go on with: " + options.resume_command());
  return 128 + signal;  // as shells report a process that a signal ended
}

/// Sets the threads that train fastest, and says what was measured.
std::string calibrate_threads(const Options& options, const Inputs& inputs) {
  CalibrationOptions calibration;
  calibration.verbose = false;
  return calibrate(practice_step(options, inputs.dataset, Model(inputs.model_bytes, options.model)), calibration)
      .explain();
}

int finetune(int argc, char** argv) {
  const auto options = parse_options(argc, argv);
  if (!options) return 0;
  // Calibration compares with LibTorch's own threads, and needs the model.
  std::string threads;
  if (!options->calibrate) {
    threads = optimize_system_for_training({.intra_op = options->threads, .verbose = false}).explain();
  }
  // TorchScript's optimizer rewrites a graph after it has seen it run, which changes sums in the last bit at a moment
  // that a resumed run does not share. Without it a resumed run gives the same numbers, and these models the same
  // speed.
  const torch::jit::GraphOptimizerEnabledGuard no_graph_optimizer(false);
  Inputs inputs = read_inputs(*options);
  const std::string checkpoint_path = options->output + "/checkpoint.pt";
  std::optional<Checkpoint> checkpoint;
  if (options->resume) {
    checkpoint = Checkpoint::load(checkpoint_path);
    check_identity(checkpoint_path, checkpoint->identity, inputs.identity);
  }
  if (options->calibrate) threads = calibrate_threads(*options, inputs);
  if (options->compare_settings) {
    if (!options->quiet) std::fputs(threads.c_str(), stderr);
    print_loader_choice(*options, inputs.dataset, Model(inputs.model_bytes, options->model));
    return 0;
  }
  program::make_folder(options->output);
  catch_stop_signals();

  Progress progress(options->quiet);
  progress.line(without_end(threads));
  progress.line(describe(inputs.dataset, "training  ", Split::kTrain));
  progress.line(describe(inputs.dataset, "validation", Split::kValidation));
  progress.line(describe(inputs.dataset, "test      ", Split::kTest));
  Model model(inputs.model_bytes, options->model);
  auto test = inputs.dataset.split(Split::kTest);
  const double base_model_test_mse = mean_squared_error(model, test);
  check_finite(base_model_test_mse, options->model);

  Trainer trainer(*options, inputs.dataset, std::move(model), inputs.identity, progress);
  checkpoint ? trainer.resume(*checkpoint) : trainer.start();
  if (!trainer.train()) return report_stop(*options, trainer, progress);

  const Metrics metrics = make_metrics(*options, inputs.dataset, trainer, base_model_test_mse);
  program::write_file_atomically(options->output + "/model.pt", trainer.best_model());
  program::write_file_atomically(options->output + "/metrics.json", metrics.to_json());
  if (!options->quiet) {
    std::printf("%s", metrics.to_table().c_str());
    std::printf("epoch %lld of %lld was best in validation; %s/model.pt and metrics.json written\n",
                static_cast<long long>(trainer.state().best_epoch), static_cast<long long>(trainer.state().epoch),
                options->output.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace torchfeed::finetune

int main(int argc, char** argv) {
  return torchfeed::program::run("finetune", [&] { return torchfeed::finetune::finetune(argc, argv); });
}
