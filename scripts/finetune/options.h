#pragma once

#include <torchfeed/datasets/financial_dataset.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::finetune {

/// What the person who runs finetune chose. Ranges are checked by `parse_options`.
struct Options {
  std::string model;
  std::vector<std::string> data;
  std::vector<std::string> features;
  std::string target = "volatility";
  std::string from;
  std::string to;
  std::string output = "finetune_output";
  int64_t sequence_length = 50;

  int64_t epochs = 30;
  int64_t batch_size = 32;
  double learning_rate = 1e-3;
  std::string schedule = "cosine";
  double weight_decay = 1e-2;
  double clip = 1.0;
  std::string freeze;
  int64_t patience = 8;
  int64_t seed = 1;

  int64_t num_workers = -1;
  int threads = 0;
  bool calibrate = false;
  bool compare_settings = false;
  bool resume = false;
  bool quiet = false;

  /// The command line, to say how a stopped run goes on.
  std::vector<std::string> arguments;

  datasets::FinancialOptions dataset_options() const;

  /// The options that the result depends on, flag by flag: those that must be the same when a run is resumed.
  nlohmann::json identity() const;

  /// The command that goes on with this run.
  std::string resume_command() const;
};

/// Reads the command line. Empty if only help was asked for, which has been printed then.
/// Throws program::InputError for what is not understood or out of range.
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace torchfeed::finetune
