// loader_bench as it is run: the figures that it writes, and what it says beside a baseline.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/finetune_run.h"

namespace torchfeed::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class LoaderBench : public ::testing::Test {
 protected:
  Ended run(const std::vector<std::string>& more, const char* repeats = "3") {
    std::vector<std::string> command{std::string(TORCHFEED_PROGRAM_DIR) + "/loader_bench", "--workloads=windows_batch",
                                     "--workers=0,1", "--seconds=0.02", std::string("--repeats=") + repeats};
    command.insert(command.end(), more.begin(), more.end());
    return run_to_end(command, dir_);
  }

  json measure() {
    const Ended ended = run({"--loaders=torchfeed,torch_data", "--json", dir_.file("now.json")});
    EXPECT_EQ(ended.code, 0) << ended.err;
    return json::parse(read_text(dir_.file("now.json")));
  }

  /// A baseline from `report` whose paces are so many times as high.
  std::string baseline(json report, double times, const std::function<void(json&)>& change = nullptr) {
    for (json& row : report["rows"]) {
      for (const char* field : {"samples_per_second", "samples_per_second_low", "samples_per_second_high"}) {
        row[field] = times * row[field].get<double>();
      }
    }
    if (change) change(report);
    return dir_.write("baseline.json", report.dump());
  }

  TempDir dir_;
};

TEST_F(LoaderBench, WritesARowForEachSettingAndTheLimits) {
  const json report = measure();
  EXPECT_EQ(report["schema"], 1);
  for (const char* field : {"cpu", "logical_cpus", "physical_cores", "memory_gb", "kernel"}) {
    EXPECT_TRUE(report["machine"].contains(field)) << field;
  }
  EXPECT_EQ(report["settings"]["repeats"], 3);
  std::vector<std::string> rows;
  for (const json& row : report["rows"]) {
    rows.push_back(row["loader"].get<std::string>() + ' ' + row["mode"].get<std::string>() + ' ' +
                   row["workers"].dump());
    EXPECT_GT(row["samples_per_second"], 0);
    if (row["loader"] == "limit") {
      EXPECT_THAT(row["how"].get<std::string>(), HasSubstr("memcpy"));
      continue;
    }
    for (const char* field : {"us_per_batch_p50", "us_per_batch_p99", "first_batch_ms", "later_first_batch_ms",
                              "turnaround_ms", "waiting_share", "trainer_cpu_seconds", "peak_pss_mb"}) {
      EXPECT_GT(row[field], 0) << field << " of " << rows.back();
    }
  }
  EXPECT_THAT(rows, ::testing::ElementsAre("torchfeed inline 0", "torchfeed process 1", "torch_data inline 0",
                                           "torch_data thread 1", "limit inline 0", "limit inline 1"));
}

TEST_F(LoaderBench, RunsAutoUntilItsFirstBatchesAreAThirdAtMostAndTellsTheWholeRunToo) {
  const std::vector<std::string> command{std::string(TORCHFEED_PROGRAM_DIR) + "/loader_bench",
                                         "--workloads=wait",
                                         "--batch-size=1",
                                         "--workers=0,2,auto",
                                         "--seconds=0.02",
                                         "--auto-seconds=0.1",
                                         "--repeats=1",
                                         "--json",
                                         dir_.file("auto.json")};
  const Ended ended = run_to_end(command, dir_);
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("with the first batches, its trials and its start: "));
  const json report = json::parse(read_text(dir_.file("auto.json")));
  EXPECT_EQ(report["settings"]["auto_seconds"], 0.1);
  const json& rows = report["rows"];
  EXPECT_LT(rows[0]["batches"], 50);
  EXPECT_GE(rows[2]["batches"], 151);
  EXPECT_GT(rows[2]["whole_samples_per_second"], 0);
  EXPECT_EQ(rows[4]["how"], "measured: the same waiting alone in one thread, times 2");
  EXPECT_DOUBLE_EQ(rows[4]["samples_per_second"], 2 * rows[3]["samples_per_second"].get<double>());
  EXPECT_LT(rows[3]["samples_per_second"], 500) << "2 ms a sample, and what the system adds";
}

TEST_F(LoaderBench, TellsByItsExitCodeWhatIsSlowerThanTheBaseline) {
  const json report = measure();
  const auto beside = [&](double times) { return run({"--baseline", baseline(report, times)}); };
  const Ended slower = beside(100);
  EXPECT_EQ(slower.code, 1) << slower.err;
  EXPECT_THAT(slower.out, AllOf(HasSubstr("slower: windows_batch, torchfeed process 1"),
                                HasSubstr("2 of 2 rows are slower beyond noise, 0 faster")));
  const Ended faster = beside(0.01);
  EXPECT_EQ(faster.code, 0) << faster.err;
  EXPECT_THAT(faster.out, AllOf(HasSubstr("faster: windows_batch, torchfeed inline 0"),
                                HasSubstr("0 of 2 rows are slower beyond noise, 2 faster")));
}

TEST_F(LoaderBench, IsNotSlowerWhereTheRepeatsOfBothRunsOverlap) {
  const std::string path = baseline(measure(), 3, [](json& report) {
    for (json& row : report["rows"]) row["samples_per_second_low"] = 1;
  });
  const Ended ended = run({"--baseline", path});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("0 of 2 rows are slower"));
}

TEST_F(LoaderBench, SaysWhatMakesTheBaselineAnother) {
  const std::string path = baseline(measure(), 0.01, [](json& report) {
    report["machine"]["cpu"] = "abacus";
    report["settings"]["prefetch_factor"] = 7;
    report["rows"].erase(0);
  });
  const Ended ended = run({"--baseline", path});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, AllOf(HasSubstr("machine: cpu was \"abacus\""), HasSubstr("prefetch_factor was 7, is 2"),
                               HasSubstr("not in the baseline: windows_batch, torchfeed inline 0"),
                               HasSubstr("only in the baseline: windows_batch, torch_data thread 1"),
                               HasSubstr("0 of 1 rows"), Not(HasSubstr("versions:"))));
}

TEST_F(LoaderBench, RefusesABaselineThatSaysNothing) {
  const json report = measure();
  const auto expect_refused = [&](const std::string& path, const char* why) {
    const Ended ended = run({"--baseline", path});
    EXPECT_EQ(ended.code, 2);
    EXPECT_THAT(ended.err, AllOf(StartsWith("loader_bench: "), HasSubstr(why)));
  };
  expect_refused(dir_.file("no.json"), "no.json");
  expect_refused(dir_.write("text.json", "hello"), "text.json: expected what loader_bench --json writes");
  expect_refused(baseline(report, 1, [](json& other) { other["schema"] = 2; }), "expected schema 1, got 2");
}

TEST_F(LoaderBench, NeedsRepeatsToTellNoise) {
  const std::string path = baseline(measure(), 1, [](json& report) {
    for (json& row : report["rows"]) row["repeats"] = 2;
  });
  const Ended before = run({"--baseline", path});
  EXPECT_EQ(before.code, 2);
  EXPECT_THAT(before.err, HasSubstr("none of its rows has at least 3 repeats and was measured now"));
  const Ended now = run({"--baseline", path}, "2");
  EXPECT_EQ(now.code, 2);
  EXPECT_THAT(now.err, HasSubstr("--repeats: expected at least 3 with --baseline, got 2"));
}

TEST_F(LoaderBench, RefusesWhatItDoesNotUnderstandInOneLine) {
  const auto expect_refused = [&](const std::vector<std::string>& flags, const char* why) {
    std::vector<std::string> command{std::string(TORCHFEED_PROGRAM_DIR) + "/loader_bench"};
    command.insert(command.end(), flags.begin(), flags.end());
    const Ended ended = run_to_end(command, dir_);
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.out, "");
    EXPECT_THAT(ended.err, AllOf(StartsWith("loader_bench: "), HasSubstr(why)));
    EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
  };
  expect_refused({"--workloads", "films"}, "--workloads: expected windows, windows_batch");
  expect_refused({"--loaders", "python"}, "--loaders: expected torchfeed or torch_data, got 'python'");
  expect_refused({"--modes", "fiber"}, "--modes: expected thread or process, got 'fiber'");
  expect_refused({"--workers", "-2"}, "--workers: expected 0 to 1024 or auto, got '-2'");
  expect_refused({"--workers", "1,2000"}, "got '2000'");
  expect_refused({"--loaders", "torch_data", "--workers", "auto"}, "torch_data has no auto");
  expect_refused({"--in-order", "maybe"}, "--in-order: expected true or false, got 'maybe'");
  expect_refused({"--step-ms", "nan"}, "--step-ms");
  expect_refused({"--seconds", "0"}, "--seconds");
  expect_refused({"--batch-size", "0"}, "--batch-size");
  expect_refused({"--json", dir_.path() + "/no/such/folder.json"}, "folder.json: No such file or directory");
  expect_refused({"--json", dir_.path()}, "Is a directory");
  expect_refused({"--quickly"}, "--quickly");
}

}  // namespace
}  // namespace torchfeed::testing
