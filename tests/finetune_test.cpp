// finetune as a user runs it: results, stopping, going on, full disks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <torch/script.h>
#include <torchfeed/datasets/financial_dataset.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/finetune_result.h"
#include "support/finetune_run.h"
#include "support/processes.h"

namespace torchfeed::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// All that training changes in a model has a part in this: parameters, batch norm's buffers, dropout's random numbers.
std::string save_dropout_model(const TempDir& dir) {
  torch::manual_seed(1);
  torch::jit::Module model("__torch__.DropoutNet");
  model.register_parameter("first", torch::randn({16, 40}) * 0.1, /*is_buffer=*/false);
  model.register_parameter("last", torch::randn({1, 16}) * 0.1, /*is_buffer=*/false);
  model.register_attribute("training", c10::BoolType::get(), true);
  model.register_buffer("mean", torch::zeros({16}));
  model.register_buffer("variance", torch::ones({16}));
  model.define(R"(
def forward(self, x):
    y = torch.matmul(x.flatten(1), self.first.t())
    y = torch.batch_norm(y, None, None, self.mean, self.variance, self.training, 0.1, 1e-5, False)
    y = torch.dropout(torch.tanh(y), 0.3, self.training)
    return torch.matmul(y, self.last.t())
)");
  model.save(dir.file("dropout.pt"));
  return dir.file("dropout.pt");
}

class Finetune : public ::testing::Test {
 protected:
  void SetUp() override { model_ = save_dropout_model(dir_); }

  std::vector<std::string> command(const std::string& output, std::initializer_list<std::string> more = {}) const {
    return finetune_command(model_, dir_.file(output), more);
  }

  Ended run_well(const std::vector<std::string>& command) const {
    auto ended = run_to_end(command, dir_);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return ended;
  }

  TempDir dir_;
  std::string model_;
};

TEST_F(Finetune, WritesMetricsWithExactlyTheseKeys) {
  run_well(command("a", {"--target", "return", "--seed", "5", "--num-workers", "1"}));
  const json metrics = metrics_of(dir_.file("a"));
  std::vector<std::string> keys;
  for (const auto& [key, value] : metrics.items()) keys.push_back(key);
  EXPECT_THAT(keys, ::testing::UnorderedElementsAre("target", "epochs", "train_loss", "validation_loss", "test_mse",
                                                    "base_model_test_mse", "baselines", "samples_per_second",
                                                    "data_wait_fraction", "threads", "num_workers", "libtorch_version",
                                                    "seed"));
  EXPECT_EQ(metrics["target"], "return");
  EXPECT_EQ(metrics["seed"], 5);
  EXPECT_EQ(metrics["epochs"], metrics["train_loss"].size());
  EXPECT_EQ(metrics["epochs"], metrics["validation_loss"].size());
  EXPECT_EQ(metrics["num_workers"], 1);
  EXPECT_EQ(metrics["libtorch_version"], TORCH_VERSION);
  EXPECT_EQ(metrics["threads"]["intra_op"], 1);
  EXPECT_GE(metrics["threads"]["inter_op"], 1);
  EXPECT_GT(metrics["samples_per_second"], 0);
  EXPECT_GE(metrics["data_wait_fraction"], 0);
  EXPECT_LE(metrics["data_wait_fraction"], 1);
  for (const char* name : {"mean", "persistence", "rolling_mean_10", "ewma"}) {
    EXPECT_GT(metrics["baselines"][name], 0) << name;
  }
  EXPECT_EQ(metrics["baselines"].size(), 4U);
}

TEST_F(Finetune, LearnsAndSavesTheModelThatItMeasured) {
  const auto ended = run_well(command("a", {"--epochs", "10", "--learning-rate", "0.003"}));
  const json metrics = metrics_of(dir_.file("a"));
  EXPECT_LT(metrics["test_mse"], metrics["base_model_test_mse"]);
  EXPECT_LT(metrics["train_loss"].back(), metrics["train_loss"].front());
  EXPECT_THAT(ended.out, HasSubstr("fine-tuned model"));

  auto model = torch::jit::load(dir_.file("a/model.pt"));
  EXPECT_FALSE(model.is_training());
  datasets::FinancialOptions options;
  options.sequence_length = 10;
  options.from = "2017-01-01";
  options.to = "2019-12-31";
  auto test = datasets::FinancialDataset::open(kPrices, options).split(datasets::Split::kTest);
  std::vector<size_t> indices(*test.size());
  std::iota(indices.begin(), indices.end(), size_t{0});
  const auto batch = test.get_batch(indices);
  const auto error = (model.forward({batch.data}).toTensor().squeeze(1) - batch.target).square().mean();
  EXPECT_NEAR(error.item<double>(), metrics["test_mse"].get<double>(), 1e-6);

  // The baselines, by their definitions.
  const auto series = test.target_series();
  double persistence = 0;
  double rolling = 0;
  double ewma = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    const int64_t row = test.target_row(i);
    double mean10 = 0;
    for (int64_t day = row - 10; day < row; ++day) mean10 += series[day] / 10.0;
    double exponential = series[0] * std::pow(0.85, row - 1);
    for (int64_t day = 1; day < row; ++day) exponential += 0.15 * std::pow(0.85, row - 1 - day) * series[day];
    persistence += std::pow(series[row] - series[row - 1], 2) / indices.size();
    rolling += std::pow(series[row] - mean10, 2) / indices.size();
    ewma += std::pow(series[row] - exponential, 2) / indices.size();
  }
  EXPECT_NEAR(metrics["baselines"]["persistence"].get<double>(), persistence, 1e-6);
  EXPECT_NEAR(metrics["baselines"]["rolling_mean_10"].get<double>(), rolling, 1e-6);
  EXPECT_NEAR(metrics["baselines"]["ewma"].get<double>(), ewma, 1e-6);
}

TEST_F(Finetune, GivesTheSameResultWithAnyNumberOfWorkers) {
  run_well(command("a", {"--num-workers", "0"}));
  for (const std::string workers : {"1", "2", "-1"}) {
    run_well(command("b" + workers, {"--num-workers", workers}));
    expect_same_result(dir_.file("b" + workers), dir_.file("a"));
  }
  run_well(command("c", {"--seed", "2"}));
  EXPECT_NE(metrics_of(dir_.file("c"))["train_loss"], metrics_of(dir_.file("a"))["train_loss"]);
}

TEST_F(Finetune, CalibratesThreadsWithoutChangingTheResult) {
  run_well(command("expected"));
  auto calibrated = command("calibrated", {"--calibrate"});
  const auto threads = std::find(calibrated.begin(), calibrated.end(), "--threads");
  calibrated.erase(threads, threads + 2);
  const auto ended = run_well(calibrated);
  EXPECT_THAT(ended.err, HasSubstr("torchfeed: threads by measuring, "));
  EXPECT_THAT(ended.err, HasSubstr("  as before: intra_op = "));
  // Other threads and kernels may round otherwise; a step more or another random number would show a thousand times as
  // much.
  expect_same_result(dir_.file("calibrated"), dir_.file("expected"), 1e-5);
}

// Whatever happens in the test part's days, training and the choice of the best epoch must not feel it.
TEST_F(Finetune, NeverLooksAtTheTestPart) {
  std::ifstream file(kPrices);
  std::string changed;
  for (std::string row; std::getline(file, row);) {
    // Each price in the last months of 2019 stands ten times as high, and the day's range becomes huge.
    if (row >= "2019-08-01" && row < "2020") {
      const std::string date = row.substr(0, 10);
      row = date + ",20000,40000,10000,30000,30000,1000000000";
    }
    changed += row + '\n';
  }
  const std::string path = dir_.write("changed.csv", changed);
  run_well(command("a"));
  auto with_changed = command("b");
  *(std::find(with_changed.begin(), with_changed.end(), kPrices)) = path;
  run_well(with_changed);
  const json metrics = metrics_of(dir_.file("a"));
  const json changed_metrics = metrics_of(dir_.file("b"));
  EXPECT_EQ(metrics["train_loss"], changed_metrics["train_loss"]);
  EXPECT_EQ(metrics["validation_loss"], changed_metrics["validation_loss"]);
  EXPECT_NE(metrics["test_mse"], changed_metrics["test_mse"]);
}

TEST_F(Finetune, LeavesFrozenParametersAsTheyAre) {
  run_well(command("a", {"--freeze", "^first$"}));
  const auto base = torch::jit::load(model_);
  const auto tuned = torch::jit::load(dir_.file("a/model.pt"));
  EXPECT_TRUE(torch::equal(tuned.attr("first").toTensor(), base.attr("first").toTensor()));
  EXPECT_FALSE(torch::equal(tuned.attr("last").toTensor(), base.attr("last").toTensor()));
}

TEST_F(Finetune, StopsEarlyWhenPatienceIsUp) {
  // At this rate the model gets worse from some epoch on.
  run_well(command("a", {"--epochs", "200", "--learning-rate", "0.003", "--patience", "3"}));
  const json metrics = metrics_of(dir_.file("a"));
  const auto losses = metrics["validation_loss"].get<std::vector<double>>();
  EXPECT_LT(losses.size(), 200U);
  const auto best = std::min_element(losses.begin(), losses.end());
  EXPECT_EQ(losses.end() - best, 4);
}

TEST_F(Finetune, PrintsPlainLinesWithoutATerminalAndNothingIfQuiet) {
  const auto told = run_well(command("a"));
  EXPECT_THAT(told.err, HasSubstr("epoch 6/6"));
  EXPECT_THAT(told.err, HasSubstr("samples/s"));
  EXPECT_THAT(told.err, HasSubstr("data wait"));
  EXPECT_EQ(told.err.find('\r'), std::string::npos);
  const auto quiet = run_well(command("b", {"--quiet"}));
  EXPECT_THAT(quiet.err, IsEmpty());
  EXPECT_THAT(quiet.out, IsEmpty());
}

// 517 samples leave a last batch of one, of which batch norm has no variance.
TEST_F(Finetune, SaysSoWhenTheLossIsNoNumber) {
  const auto ended = run_to_end(command("a", {"--batch-size", "4", "--quiet"}), dir_);
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.err, HasSubstr("the validation loss is not finite after epoch 1; the last of 517 samples"));
  EXPECT_FALSE(std::filesystem::exists(dir_.file("a/model.pt")));
  EXPECT_FALSE(std::filesystem::exists(dir_.file("a/metrics.json")));
}

class FinetuneStopped : public Finetune, public ::testing::WithParamInterface<std::string> {};

TEST_P(FinetuneStopped, GoesOnBitForBitAfterSignalsInMidEpoch) {
  run_well(command("whole"));
  {
    ProgramRun run(command("stopped", {"--num-workers", GetParam()}), dir_.file("first"));
    ASSERT_TRUE(run.wait_for_err("epoch 1/6")) << run.err();
    run.signal_group(SIGINT);
    EXPECT_EQ(run.wait(), 128 + SIGINT);
    EXPECT_THAT(run.err(), HasSubstr("stopped by SIGINT in epoch"));
    EXPECT_THAT(run.err(), HasSubstr("--resume"));
    EXPECT_FALSE(std::filesystem::exists(dir_.file("stopped/model.pt")));
  }
  {
    ProgramRun run(command("stopped", {"--resume", "--num-workers", "1"}), dir_.file("second"));
    ASSERT_TRUE(run.wait_for_err("epoch 3/6")) << run.err();
    run.signal(SIGTERM);
    EXPECT_EQ(run.wait(), 128 + SIGTERM);
    EXPECT_THAT(run.err(), HasSubstr("stopped by SIGTERM in epoch"));
  }
  run_well(command("stopped", {"--resume"}));
  expect_same_result(dir_.file("stopped"), dir_.file("whole"));
}

INSTANTIATE_TEST_SUITE_P(Workers, FinetuneStopped, ::testing::Values("0", "1", "2"),
                         [](const auto& info) { return "With" + info.param; });

TEST_F(Finetune, LeavesNoProcessAfterSigkillAndGoesOn) {
  run_well(command("whole"));
  ProgramRun run(command("killed", {"--num-workers", "2"}), dir_.file("first"));
  ASSERT_TRUE(run.wait_for_err("epoch 2/6")) << run.err();
  std::vector<pid_t> processes = children_of(run.pid());
  for (size_t i = 0; i < processes.size(); ++i) {
    const auto below = children_of(processes[i]);
    processes.insert(processes.end(), below.begin(), below.end());
  }
  EXPECT_GE(processes.size(), 2U);
  run.signal(SIGKILL);
  EXPECT_EQ(run.wait(), -SIGKILL);
  EXPECT_TRUE(all_end(processes));
  // The listener in support/leftovers.h looks into /dev/shm.
  run_well(command("killed", {"--resume"}));
  expect_same_result(dir_.file("killed"), dir_.file("whole"));
}

TEST_F(Finetune, ResumesARunThatIsCompleteToTheSameResult) {
  run_well(command("a"));
  std::filesystem::copy(dir_.file("a"), dir_.file("b"));
  std::filesystem::remove(dir_.file("b/model.pt"));
  run_well(command("b", {"--resume"}));
  expect_same_result(dir_.file("b"), dir_.file("a"));
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

// The first checkpoint has no moments of AdamW yet, so it is smaller than those after it.
TEST_F(Finetune, KeepsTheOldCheckpointWhenTheNextDoesNotFit) {
  run_well(command("whole"));
  const auto size = std::filesystem::file_size(dir_.file("whole/checkpoint.pt"));
  ProgramOptions options;
  options.largest_file = size - 1000;
  const auto ended = run_to_end(command("full", {"--quiet", "--num-workers", "0"}), dir_, options);
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.err, "finetune: " + dir_.file("full/checkpoint.pt") + ": cannot write: File too large\n");
  EXPECT_THAT(names_in(dir_.file("full")), ::testing::ElementsAre("checkpoint.pt"));
  run_well(command("full", {"--resume"}));
  expect_same_result(dir_.file("full"), dir_.file("whole"));
}

/// A small file system in memory at `folder`, as long as this lives.
class SmallDisk {
 public:
  explicit SmallDisk(std::string folder) : folder_(std::move(folder)) { std::filesystem::create_directory(folder_); }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  /// Mounts it, or gives it another size. False if that is not permitted.
  bool resize(uintmax_t bytes) {
    const std::string size = "size=" + std::to_string(bytes);
    mounted_ = ::mount("tmpfs", folder_.c_str(), "tmpfs", mounted_ ? static_cast<unsigned long>(MS_REMOUNT) : 0UL,
                       size.c_str()) == 0 ||
               mounted_;
    return mounted_;
  }

 private:
  std::string folder_;
  bool mounted_ = false;
};

TEST_F(Finetune, KeepsTheOldCheckpointOnAFullDisk) {
  run_well(command("whole"));
  const auto size = std::filesystem::file_size(dir_.file("whole/checkpoint.pt"));
  SmallDisk disk(dir_.file("full"));
  if (!disk.resize(size + size / 4)) GTEST_SKIP() << "a small tmpfs cannot be mounted here, which takes root";
  const auto ended = run_to_end(command("full", {"--quiet"}), dir_);
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.err, "finetune: " + dir_.file("full/checkpoint.pt") + ": cannot write: No space left on device\n");
  EXPECT_THAT(names_in(dir_.file("full")), ::testing::ElementsAre("checkpoint.pt"));
  disk.resize(100 * size);
  run_well(command("full", {"--resume"}));
  expect_same_result(dir_.file("full"), dir_.file("whole"));
}

/// A Python that has PyTorch of this LibTorch's version; empty if there is none.
std::string python_with_torch(const TempDir& dir) {
  const std::string version = std::string(TORCH_VERSION).substr(0, std::string(TORCH_VERSION).find('.', 2));
  for (const std::string python : {"python3", "/usr/bin/python3"}) {
    const auto ended = run_to_end({python, "-c", "import torch; print(torch.__version__)"}, dir);
    if (ended.code == 0 && ended.out.rfind(version + '.', 0) == 0) return python;
  }
  return "";
}

TEST_F(Finetune, WritesAModelThatPythonLoads) {
  const std::string python = python_with_torch(dir_);
  if (python.empty()) GTEST_SKIP() << "no Python with PyTorch " << TORCH_VERSION << " (Debian: python3-torch)";
  const std::string made = dir_.file("gru.pt");
  ASSERT_EQ(run_to_end({kMakeModel, "--arch", "gru", "--features", "4", "--sequence-length", "10", "--hidden", "8",
                        "--output", made},
                       dir_)
                .code,
            0);
  run_well(finetune_command(made, dir_.file("a")));
  const auto ended = run_to_end({python, "-c",
                                 "import sys, torch\n"
                                 "model = torch.jit.load(sys.argv[1])\n"
                                 "assert not model.training\n"
                                 "x = torch.arange(120.0).reshape(3, 10, 4) / 100\n"
                                 "print(' '.join('%.9g' % y for y in model(x).tolist()))",
                                 dir_.file("a/model.pt")},
                                dir_);
  ASSERT_EQ(ended.code, 0) << ended.err;
  auto model = torch::jit::load(dir_.file("a/model.pt"));
  const auto expected = model.forward({torch::arange(120.0).reshape({3, 10, 4}) / 100}).toTensor();
  std::istringstream numbers(ended.out);
  for (int i = 0; i < 3; ++i) {
    float number = 0;
    ASSERT_TRUE(numbers >> number) << ended.out;
    EXPECT_NEAR(number, expected[i].item<float>(), 1e-6);
  }
}

TEST_F(Finetune, TrainsEachArchitectureOfMakeModel) {
  for (const std::string arch : {"gru", "tcn", "mlp"}) {
    const std::string made = dir_.file(arch + ".pt");
    ASSERT_EQ(run_to_end({kMakeModel, "--arch", arch, "--features", "4", "--sequence-length", "10", "--hidden", "8",
                          "--output", made},
                         dir_)
                  .code,
              0);
    run_well(finetune_command(made, dir_.file(arch)));
    const json metrics = metrics_of(dir_.file(arch));
    EXPECT_LT(metrics["test_mse"], metrics["base_model_test_mse"]) << arch;
    EXPECT_LT(metrics["train_loss"].back(), metrics["train_loss"].front()) << arch;
  }
}

}  // namespace
}  // namespace torchfeed::testing
