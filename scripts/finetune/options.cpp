#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string_view>

#include "../common/command_line.h"
#include "../common/program.h"

namespace torchfeed::finetune {
namespace {

constexpr int64_t kMaxEpochs = 1'000'000;
constexpr int64_t kMaxBatchSize = 1'000'000;
constexpr int64_t kMaxSequenceLength = 1'000'000;
constexpr int kMaxWorkers = 1024;
constexpr int kMaxThreads = 4096;

void add_data_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, "TorchScript model, input [B, L, C] with C features, output [B] or [B, 1]")
      ->required();
  auto* data = app.add_option("--data", options.data,
                              "CSV files of bars (date, open, high, low, close, volume), or directories that convert "
                              "wrote: one for each instrument, or for all");
  data->required()->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  auto* features = app.add_option("--features", options.features,
                                  "Columns of a window, separated by commas, as convert's (default: log_return,"
                                  "log_range,log_volume_change,log_close_open)");
  features->delimiter(',')->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--target", options.target,
                 "What to predict of the next bar: volatility, return, log_return or direction")
      ->check(CLI::IsMember({"volatility", "return", "log_return", "direction"}))
      ->capture_default_str();
  app.add_option("--from", options.from, "First date, YYYY-MM-DD (default: the file's first)");
  app.add_option("--to", options.to, "Last date, YYYY-MM-DD (default: the file's last)");
  app.add_option("--sequence-length", options.sequence_length, "Bars in a window, L")
      ->check(CLI::Range(int64_t{1}, kMaxSequenceLength))
      ->capture_default_str();
  app.add_option("--output", options.output, "Folder for model.pt, metrics.json and checkpoint.pt")
      ->capture_default_str();
}

void add_training_options(CLI::App& app, Options& options) {
  app.add_option("--epochs", options.epochs, "Epochs at most")
      ->check(CLI::Range(int64_t{1}, kMaxEpochs))
      ->capture_default_str();
  app.add_option("--batch-size", options.batch_size, "Windows in a batch")
      ->check(CLI::Range(int64_t{1}, kMaxBatchSize))
      ->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "AdamW's learning rate at the start")->capture_default_str();
  app.add_option("--schedule", options.schedule,
                 "cosine: down to 0 in half a cosine; step: a tenth after half of the steps, a hundredth after three "
                 "quarters")
      ->check(CLI::IsMember({"cosine", "step"}))
      ->capture_default_str();
  app.add_option("--weight-decay", options.weight_decay, "AdamW's weight decay")->capture_default_str();
  app.add_option("--clip", options.clip, "Largest norm of the gradient")->capture_default_str();
  app.add_option("--freeze", options.freeze, "Regular expression (ECMAScript): parameters whose name has a match stay");
  app.add_option("--patience", options.patience, "Epochs without a better validation loss before stopping early")
      ->check(CLI::Range(int64_t{1}, kMaxEpochs))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Seed of everything random")
      ->check(CLI::Range(int64_t{0}, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
}

void add_run_options(CLI::App& app, Options& options) {
  app.add_option("--num-workers", options.num_workers, "Loader's worker processes; -1: automatic, 0: none")
      ->check(CLI::Range(-1, kMaxWorkers))
      ->capture_default_str();
  auto* threads = app.add_option("--threads", options.threads, "LibTorch's threads inside an operator; 0: automatic");
  threads->check(CLI::Range(0, kMaxThreads))->capture_default_str();
  app.add_flag("--calibrate", options.calibrate,
               "Find the number of threads by timing training steps for 5 s, on a copy of the model. Sums over other "
               "numbers of threads differ in their last bits; a run that is resumed with it may find another number")
      ->excludes(threads);
  auto* resume = app.add_flag("--resume", options.resume, "Go on from the checkpoint in the output folder");
  app.add_flag("--compare-settings", options.compare_settings,
               "Measure which --num-workers trains fastest, on a copy of the model, print that and write nothing")
      ->excludes(resume);
  app.add_flag("--quiet", options.quiet, "Print nothing but errors");
}

// CLI::Range lets NaN through, as NaN is neither below nor above.
void check_number(const char* flag, double value, double least, bool least_included, double most) {
  if (std::isfinite(value) && (value > least || (least_included && value == least)) && value <= most) return;
  std::ostringstream message;
  message << flag << ": expected a number " << (least_included ? "of at least " : "above ") << least << " and at most "
          << most << ", got " << value;
  throw program::InputError(message.str());
}

void check_numbers(const Options& options) {
  check_number("--learning-rate", options.learning_rate, 0, false, 100);
  check_number("--weight-decay", options.weight_decay, 0, true, 100);
  check_number("--clip", options.clip, 0, false, 1e9);
}

std::string shell_quoted(const std::string& argument) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
  if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) return argument;
  std::string quoted = "'";
  for (const char c : argument) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

datasets::FinancialOptions Options::dataset_options() const {
  datasets::FinancialOptions options;
  options.sequence_length = sequence_length;
  options.target = target == "volatility"   ? datasets::Target::kVolatility
                   : target == "return"     ? datasets::Target::kReturn
                   : target == "log_return" ? datasets::Target::kLogReturn
                                            : datasets::Target::kDirection;
  options.features = features;
  options.lazy_loading = true;  // gathering windows takes no time beside training on them
  options.from = from;
  options.to = to;
  return options;
}

nlohmann::json Options::identity() const {
  return {{"--features", features},
          {"--target", target},
          {"--from", from},
          {"--to", to},
          {"--sequence-length", sequence_length},
          {"--epochs", epochs},
          {"--batch-size", batch_size},
          {"--learning-rate", learning_rate},
          {"--schedule", schedule},
          {"--weight-decay", weight_decay},
          {"--clip", clip},
          {"--freeze", freeze},
          {"--patience", patience},
          {"--seed", seed}};
}

std::string Options::resume_command() const {
  std::string command;
  for (const auto& argument : arguments) command += shell_quoted(argument) + ' ';
  return command + (resume ? "" : "--resume");
}

std::optional<Options> parse_options(int argc, char** argv) {
  Options options;
  options.arguments.assign(argv, argv + argc);
  CLI::App app(
      "Fine-tunes a TorchScript model on bars of a market and writes it, its metrics and checkpoints into a folder.\n"
      "The first 70 % of the bars train, the next 15 % choose the best epoch, the last 15 % test it.");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_data_options(app, options);
  add_training_options(app, options);
  add_run_options(app, options);
  if (!program::parse(app, argc, argv)) return std::nullopt;
  check_numbers(options);
  return options;
}

}  // namespace torchfeed::finetune
