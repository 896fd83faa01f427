// finetune's data: features by name, converted directories, several instruments.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "support/finetune_result.h"
#include "support/finetune_run.h"
#include "support/market_files.h"

namespace torchfeed::testing {
namespace {

using ::testing::HasSubstr;

const std::string kConvert = std::string(TORCHFEED_PROGRAM_DIR) + "/convert";

class FinetuneData : public ::testing::Test {
 protected:
  void SetUp() override {
    write_model("four.pt", 4);
    write_model("three.pt", 3);
  }

  /// A linear layer over windows of 10 bars with so many features.
  void write_model(const std::string& name, int64_t features) const {
    torch::manual_seed(1);
    torch::jit::Module model("__torch__.Linear");
    model.register_parameter("weight", torch::randn({1, 10 * features}) * 0.1, /*is_buffer=*/false);
    model.define("def forward(self, x):\n    return torch.matmul(x.flatten(1), self.weight.t()).squeeze(1)\n");
    model.save(dir_.file(name));
  }

  std::vector<std::string> command(const std::string& model, const std::string& output,
                                   const std::vector<std::string>& data,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command{
        kFinetune,      "--model", dir_.file(model), "--output", dir_.file(output), "--epochs", "3",
        "--batch-size", "16",      "--threads",      "1",        "--seed",          "1",        "--sequence-length",
        "10",           "--data"};
    command.insert(command.end(), data.begin(), data.end());
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  void run_well(const std::vector<std::string>& command) const {
    const auto ended = run_to_end(command, dir_);
    ASSERT_EQ(ended.code, 0) << ended.err;
  }

  /// Two instruments of 400 and 300 days, the second of which begins later.
  std::vector<std::string> write_two() const {
    return {dir_.write("a.csv", to_csv(random_bars(400, 1))),
            dir_.write("b.csv", to_csv(random_bars(300, 2), kFirstDay + 60))};
  }

  TempDir dir_;
};

TEST_F(FinetuneData, GivesTheSameResultOnAConvertedDirectoryAsOnTheCsv) {
  const std::vector<std::string> range = {"--from", "2017-01-01", "--to", "2019-12-31"};
  run_well({kConvert, kPrices, dir_.file("rows")});
  run_well(command("four.pt", "csv", {kPrices}, range));
  run_well(command("four.pt", "rows_of_one", {dir_.file("rows/sp500")}, range));
  run_well(command("four.pt", "rows_of_all", {dir_.file("rows")}, range));
  expect_same_result(dir_.file("rows_of_one"), dir_.file("csv"));
  expect_same_result(dir_.file("rows_of_all"), dir_.file("csv"));
}

TEST_F(FinetuneData, TakesFeaturesAndSeveralInstrumentsFromCsvAndConvertedAlike) {
  const auto data = write_two();
  const std::string features = "rsi_14,log_return,volatility_20";
  run_well({kConvert, data[0], data[1], dir_.file("rows"), "--features", features});
  run_well(command("three.pt", "csv", data, {"--features", features}));
  run_well(command("three.pt", "rows", {dir_.file("rows")}, {"--features", features}));
  run_well(command("three.pt", "mixed", {dir_.file("rows/a"), data[1]}, {"--features", features}));
  expect_same_result(dir_.file("rows"), dir_.file("csv"));
  expect_same_result(dir_.file("mixed"), dir_.file("csv"));
  // Another order is other data.
  run_well(command("three.pt", "other", data, {"--features", "log_return,rsi_14,volatility_20"}));
  EXPECT_NE(metrics_of(dir_.file("other"))["train_loss"], metrics_of(dir_.file("csv"))["train_loss"]);
}

TEST_F(FinetuneData, RefusesToResumeWithOtherFeaturesOrOtherRows) {
  const auto data = write_two();
  const std::vector<std::string> features = {"--features", "log_return,log_range,volume"};
  run_well({kConvert, data[0], data[1], dir_.file("rows"), "--features", features[1]});
  run_well(command("three.pt", "run", {dir_.file("rows")}, features));
  const auto refused = [&](const std::vector<std::string>& from, const std::string& names) {
    const auto ended = run_to_end(command("three.pt", "run", from, {"--features", names, "--resume"}), dir_);
    EXPECT_EQ(ended.code, 2);
    return ended.err;
  };
  EXPECT_THAT(refused({dir_.file("rows")}, "log_range,log_return,volume"), HasSubstr("had --features [\"log_return\""));
  EXPECT_THAT(refused({dir_.file("rows/a")}, features[1]), HasSubstr("had another --data file"));
  run_well({kConvert, data[1], data[0], dir_.file("rows"), "--features", features[1]});
  run_well(command("three.pt", "run", {dir_.file("rows")}, {features[0], features[1], "--resume"}));
  // The same rows at another time: the last one's, by less than a microsecond.
  std::fstream times(dir_.file("rows/b/times.npy"), std::ios::in | std::ios::out | std::ios::binary);
  times.seekp(-8, std::ios::end).put('\x7f');
  times.close();
  EXPECT_THAT(refused({dir_.file("rows")}, features[1]), HasSubstr("had another --data file"));
}

TEST_F(FinetuneData, NamesAFeatureThatIsNotThere) {
  const auto data = write_two();
  const auto unknown = run_to_end(command("three.pt", "run", data, {"--features", "log_return,rsi_14,alpha"}), dir_);
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("alpha"));
  run_well({kConvert, data[0], dir_.file("rows")});
  const auto missing =
      run_to_end(command("three.pt", "run", {dir_.file("rows")}, {"--features", "log_return,log_range,rsi_14"}), dir_);
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("expected a column 'rsi_14', got open, high, low, close, volume, log_return"));
}

}  // namespace
}  // namespace torchfeed::testing
