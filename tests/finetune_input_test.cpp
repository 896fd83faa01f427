// Bad input to finetune and make_model: one line that says where and what, exit code 2, nothing written.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "support/finetune_run.h"

namespace torchfeed::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class FinetuneInput : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = save_linear_model(dir_, "model.pt", "    return torch.matmul(x.flatten(1), self.weight.t()).squeeze(1)\n");
    output_ = dir_.file("output");
  }

  /// Runs finetune with one thing wrong and expects a line with all of `parts`, and no output folder.
  void expect_refused(const std::vector<std::string>& more, const std::vector<std::string>& parts) {
    auto command = finetune_command(model_, output_);
    for (size_t i = 0; i + 1 < more.size(); i += 2) {
      const auto given = std::find(command.begin(), command.end(), more[i]);
      if (given == command.end()) {
        command.insert(command.end(), {more[i], more[i + 1]});
      } else {
        *(given + 1) = more[i + 1];
      }
    }
    if (more.size() % 2 == 1) command.push_back(more.back());
    expect_one_line(command, "finetune: ", parts);
    EXPECT_FALSE(std::filesystem::exists(output_));
  }

  void expect_one_line(const std::vector<std::string>& command, const std::string& prefix,
                       const std::vector<std::string>& parts) {
    const auto ended = run_to_end(command, dir_);
    EXPECT_EQ(ended.code, 2) << ended.err;
    EXPECT_THAT(ended.out, IsEmpty());
    EXPECT_THAT(ended.err, StartsWith(prefix));
    EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
    for (const auto& part : parts) EXPECT_THAT(ended.err, HasSubstr(part));
  }

  /// The first `lines` lines of the price file (the header is the first) after `change` has had them.
  std::string write_prices(size_t lines, const std::function<void(std::vector<std::string>&)>& change) {
    std::ifstream file(kPrices);
    std::vector<std::string> rows(lines);
    for (auto& row : rows) std::getline(file, row);
    change(rows);
    std::string text;
    for (const auto& row : rows) text += row + '\n';
    return dir_.write("prices.csv", text);
  }

  void expect_prices_refused(const std::function<void(std::vector<std::string>&)>& change,
                             const std::vector<std::string>& parts) {
    expect_refused({"--data", write_prices(300, change), "--from", "2000-01-01"}, parts);
  }

  TempDir dir_;
  std::string model_;
  std::string output_;
};

/// The row's field in column `column` replaced.
void set_field(std::string& row, int column, const std::string& value) {
  size_t begin = 0;
  for (; column > 0; --column) begin = row.find(',', begin) + 1;
  row.replace(begin, std::min(row.find(',', begin), row.size()) - begin, value);
}

TEST_F(FinetuneInput, NamesAFileThatIsNotThere) {
  expect_refused({"--model", dir_.file("no.pt")}, {"no.pt", "No such file or directory"});
  expect_refused({"--data", dir_.file("no.csv")}, {"no.csv", "No such file or directory"});
}

TEST_F(FinetuneInput, RefusesToCalibrateANumberOfThreadsThatIsGiven) {
  expect_refused({"--threads", "1", "--calibrate"}, {"--calibrate", "excludes", "--threads"});
}

TEST_F(FinetuneInput, ComparesSettingsOfTheLoaderAndWritesNothing) {
  const std::string before = read_text(model_);
  const auto ended = run_to_end(finetune_command(model_, output_, {"--compare-settings", "--batch-size", "32"}), dir_);
  EXPECT_EQ(ended.code, 0) << ended.err;
  for (const char* row : {"inline ", "process 1 ", "process 2 ", "process auto ", "* ", "choose --num-workers "}) {
    EXPECT_THAT(ended.out, HasSubstr(row));
  }
  EXPECT_FALSE(std::filesystem::exists(output_));
  EXPECT_EQ(read_text(model_), before);
  expect_refused({"--compare-settings", "--resume"}, {"--compare-settings", "excludes", "--resume"});
}

TEST_F(FinetuneInput, RefusesEmptyFiles) {
  expect_refused({"--model", dir_.write("empty.pt", "")}, {"empty.pt", "empty"});
  expect_refused({"--data", dir_.write("empty.csv", "")}, {"empty.csv", "empty"});
}

TEST_F(FinetuneInput, RefusesFolders) {
  expect_refused({"--model", dir_.path()}, {dir_.path(), "directory"});
  expect_refused({"--data", dir_.path()}, {dir_.path(), "directory"});
}

TEST_F(FinetuneInput, RefusesATruncatedModelWhereverItIsCut) {
  const std::string bytes = read_text(model_);
  for (const double part : {0.01, 0.5, 0.9, 0.999}) {
    const auto length = static_cast<size_t>(part * static_cast<double>(bytes.size()));
    expect_refused({"--model", dir_.write("cut.pt", bytes.substr(0, length))}, {"cut.pt", "TorchScript"});
  }
}

TEST_F(FinetuneInput, RefusesAModelThatIsNoTorchScript) {
  expect_refused({"--model", kPrices}, {"sp500.csv", "TorchScript"});
}

TEST_F(FinetuneInput, RefusesATruncatedCsv) {
  const std::string text = read_text(write_prices(300, [](auto&) {}));
  expect_refused({"--data", dir_.write("cut.csv", text.substr(0, text.size() - 30)), "--from", "2000-01-01"},
                 {"cut.csv:300"});
}

TEST_F(FinetuneInput, NamesTheColumnThatIsNotThere) {
  expect_prices_refused([](auto& rows) { set_field(rows[0], 2, "peak"); }, {"prices.csv", "high"});
}

TEST_F(FinetuneInput, NamesFileLineColumnAndValueOfTextWhereANumberBelongs) {
  expect_prices_refused([](auto& rows) { set_field(rows[16], 4, "n/a"); }, {"prices.csv:17", "'close'", "'n/a'"});
}

TEST_F(FinetuneInput, RefusesNumbersThatAreNotFinite) {
  expect_prices_refused([](auto& rows) { set_field(rows[16], 1, "nan"); }, {"prices.csv:17", "'open'", "'nan'"});
  expect_prices_refused([](auto& rows) { set_field(rows[16], 6, "inf"); }, {"prices.csv:17", "'volume'", "'inf'"});
}

TEST_F(FinetuneInput, RefusesUnsortedAndDoubledDates) {
  expect_prices_refused([](auto& rows) { std::swap(rows[16], rows[17]); }, {"prices.csv:18", "'date'"});
  expect_prices_refused([](auto& rows) { rows[17] = rows[16]; }, {"prices.csv:18", "'date'"});
}

TEST_F(FinetuneInput, RefusesHighBelowLow) {
  expect_prices_refused(
      [](auto& rows) {
        set_field(rows[16], 2, "1");
        set_field(rows[16], 3, "2");
      },
      {"prices.csv:17", "high"});
}

TEST_F(FinetuneInput, RefusesFewerRowsThanAWindow) {
  expect_refused({"--sequence-length", "1000"}, {"sp500.csv", "window of 1000"});
  expect_refused({"--from", "2019-12-30"}, {"sp500.csv", "window of 10"});
}

TEST_F(FinetuneInput, GivesBothShapesWhereTheModelGivesAnother) {
  const auto wide = save_linear_model(dir_, "wide.pt", "    return torch.zeros([x.size(0), 7]) * self.weight.sum()\n");
  expect_refused({"--model", wide}, {"wide.pt: expected output [2] or [2, 1] for input [2, 10, 4], got [2, 7]"});
  const auto tuple = save_linear_model(dir_, "tuple.pt", "    return x, self.weight\n");
  expect_refused({"--model", tuple}, {"tuple.pt: expected output [2] or [2, 1] for input [2, 10, 4], got a Tuple"});
}

TEST_F(FinetuneInput, GivesBothShapesWhereTheModelTakesAnother) {
  expect_refused({"--sequence-length", "12"}, {"model.pt: forward does not take input [2, 12, 4]", "40"});
  const auto made = dir_.file("mlp.pt");
  ASSERT_EQ(run_to_end({kMakeModel, "--arch", "mlp", "--features", "5", "--sequence-length", "10", "--hidden", "8",
                        "--output", made},
                       dir_)
                .code,
            0);
  expect_refused({"--model", made}, {"input [2, 10, 4]", "expected input [B, 10, 5], got [2, 10, 4]"});
}

TEST_F(FinetuneInput, RefusesAModelThatGivesNumbersThatAreNotFinite) {
  const auto bad = save_linear_model(dir_, "bad.pt", "    return x.sum([1, 2]) * self.weight.sum() / 0.0\n");
  expect_refused({"--model", bad}, {"bad.pt", "not finite"});
}

TEST_F(FinetuneInput, RefusesOptionsOutOfRange) {
  for (const char* flag : {"--epochs", "--batch-size", "--sequence-length", "--patience"}) {
    for (const char* value : {"0", "-3", "99999999999999999999", "many"}) {
      expect_refused({flag, value}, {flag});
    }
  }
  for (const char* value : {"0", "-1", "nan", "1e9", "fast"}) {
    expect_refused({"--learning-rate", value}, {"--learning-rate"});
  }
  expect_refused({"--batch-size", "5000"}, {"--batch-size", "5000"});
  expect_refused({"--num-workers", "-2"}, {"--num-workers"});
  expect_refused({"--num-workers", "100000"}, {"--num-workers"});
  expect_refused({"--threads", "-1"}, {"--threads"});
  expect_refused({"--threads", "1000000"}, {"--threads"});
  expect_refused({"--seed", "-1"}, {"--seed"});
}

TEST_F(FinetuneInput, RefusesUnknownWordsAndFlags) {
  expect_refused({"--target", "price"}, {"--target", "price"});
  expect_refused({"--schedule", "linear"}, {"--schedule", "linear"});
  expect_refused({"--from", "2017-02-30"}, {"2017-02-30"});
  expect_refused({"--from", "2019-01-01", "--to", "2018-01-01"}, {"2018-01-01"});
  expect_refused({"--quickly"}, {"--quickly"});
  expect_one_line({kFinetune}, "finetune: ", {"--model", "required"});
}

TEST_F(FinetuneInput, RefusesToFreezeNothingOrEverything) {
  expect_refused({"--freeze", "("}, {"--freeze", "regular expression"});
  expect_refused({"--freeze", "gru"}, {"--freeze", "matches no parameter", "weight"});
  expect_refused({"--freeze", "."}, {"--freeze", "leaves no parameter"});
}

TEST_F(FinetuneInput, RefusesAnOutputFolderThatCannotBeWritten) {
  const std::string file = dir_.write("file", "content");
  output_ = file + "/below";
  expect_refused({}, {output_, "Not a directory"});
  output_ = "/proc/torchfeed";
  expect_refused({}, {output_});
  expect_one_line(finetune_command(model_, file), "finetune: ", {file});
  EXPECT_EQ(read_text(file), "content");
}

TEST_F(FinetuneInput, RefusesToResumeWhatIsNotThereOrIsNoCheckpoint) {
  expect_refused({"--resume"}, {"checkpoint.pt", "No such file or directory"});
  std::filesystem::create_directory(output_);
  std::filesystem::copy(model_, output_ + "/checkpoint.pt");
  expect_one_line(finetune_command(model_, output_, {"--resume"}), "finetune: ", {"checkpoint.pt", "checkpoint"});
}

TEST_F(FinetuneInput, RefusesToResumeWithOtherOptionsOrFiles) {
  ASSERT_EQ(run_to_end(finetune_command(model_, output_), dir_).code, 0);
  const std::string before = read_text(output_ + "/checkpoint.pt");
  auto command = finetune_command(model_, output_, {"--resume", "--target", "return"});
  expect_one_line(command, "finetune: ", {"checkpoint.pt", "--target", "\"volatility\"", "\"return\""});
  command = finetune_command(model_, output_, {"--resume", "--learning-rate", "0.002"});
  expect_one_line(command, "finetune: ", {"checkpoint.pt", "--learning-rate", "0.001", "0.002"});
  command = finetune_command(model_, output_, {"--resume"});
  command[4] = dir_.write("other.csv", read_text(kPrices) + "\n2021-01-04,1,2,1,2,2,1000\n");
  expect_one_line(command, "finetune: ", {"checkpoint.pt", "--data"});
  const auto other =
      save_linear_model(dir_, "other.pt", "    return x.flatten(1).matmul(self.weight.t()).squeeze(1)\n");
  expect_one_line(finetune_command(other, output_, {"--resume"}), "finetune: ", {"checkpoint.pt", "--model"});
  EXPECT_EQ(read_text(output_ + "/checkpoint.pt"), before);
}

TEST_F(FinetuneInput, RefusesATruncatedCheckpoint) {
  ASSERT_EQ(run_to_end(finetune_command(model_, output_), dir_).code, 0);
  const std::string path = output_ + "/checkpoint.pt";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  expect_one_line(finetune_command(model_, output_, {"--resume"}), "finetune: ", {"checkpoint.pt", "checkpoint"});
}

TEST_F(FinetuneInput, MakeModelRefusesBadOptionsAndWritesNothing) {
  const std::string path = dir_.file("made.pt");
  const auto command = [&](const std::string& arch, const std::string& features, const std::string& hidden) {
    return std::vector<std::string>{kMakeModel, "--arch",   arch,   "--features", features, "--sequence-length",
                                    "10",       "--hidden", hidden, "--output",   path};
  };
  expect_one_line(command("lstm", "4", "8"), "make_model: ", {"--arch", "lstm"});
  expect_one_line(command("gru", "0", "8"), "make_model: ", {"--features"});
  expect_one_line(command("gru", "4", "-8"), "make_model: ", {"--hidden"});
  expect_one_line(command("gru", "4", "1e99"), "make_model: ", {"--hidden"});
  expect_one_line({kMakeModel}, "make_model: ", {"required"});
  EXPECT_FALSE(std::filesystem::exists(path));
  auto elsewhere = command("gru", "4", "8");
  elsewhere.back() = dir_.file("no/such/folder.pt");
  expect_one_line(elsewhere, "make_model: ", {"folder.pt", "No such file or directory"});
}

}  // namespace
}  // namespace torchfeed::testing
