#pragma once

#include <torch/script.h>
#include <torch/torch.h>

#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed::testing {

inline const std::string kFinetune = std::string(TORCHFEED_PROGRAM_DIR) + "/finetune";
inline const std::string kMakeModel = std::string(TORCHFEED_PROGRAM_DIR) + "/make_model";
inline const std::string kPrices = std::string(TORCHFEED_DATA_DIR) + "/sp500.csv";

/// How a program ended and what it said.
struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

inline Ended run_to_end(const std::vector<std::string>& command, const TempDir& dir,
                        const ProgramOptions& options = {}) {
  ProgramRun run(command, dir.file("run"), options);
  const int code = run.wait();
  return {code, run.out(), run.err()};
}

/// Saves a TorchScript model that is one linear layer over the flattened window [10, 4], its source text given.
inline std::string save_linear_model(const TempDir& dir, const std::string& name, const std::string& forward) {
  torch::manual_seed(1);
  torch::jit::Module model("__torch__.Linear");
  model.register_parameter("weight", torch::randn({1, 40}) * 0.1, /*is_buffer=*/false);
  model.define("def forward(self, x):\n" + forward);
  model.save(dir.file(name));
  return dir.file(name);
}

/// Three years of bars in windows of 10 days, so that a run takes a second.
inline std::vector<std::string> finetune_command(const std::string& model, const std::string& output,
                                                 std::initializer_list<std::string> more = {}) {
  std::vector<std::string> command{
      kFinetune,    "--model",           model,  "--data",   kPrices, "--from",       "2017-01-01", "--to",
      "2019-12-31", "--output",          output, "--epochs", "6",     "--batch-size", "5",          "--threads",
      "1",          "--sequence-length", "10"};
  command.insert(command.end(), more);
  return command;
}

}  // namespace torchfeed::testing
