#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/planner.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "support/hybrid_machine.h"
#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed {
namespace {

using nlohmann::json;
using testing::TempDir;

/// How the program ended and what it said.
struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

class TopologyProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT",
                             "OMP_PROC_BIND", "HWLOC_SYNTHETIC", "HWLOC_XMLFILE"})
      unsetenv(name);
  }
  void TearDown() override { unsetenv("OMP_NUM_THREADS"); }

  Ended run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), std::string(TORCHFEED_PROGRAM_DIR) + "/topology");
    testing::ProgramRun program(arguments, dir_.file("run"));
    const int code = program.wait();
    return {code, program.out(), program.err()};
  }
  json run_json(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const Ended ended = run(arguments);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return json::parse(ended.out);
  }
  void expect_refused(const std::vector<std::string>& arguments, const std::string& message) {
    const Ended ended = run(arguments);
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.out, "");
    EXPECT_EQ(ended.err, "topology: " + message + "\n");
  }

  TempDir dir_;
};

TEST_F(TopologyProgramTest, ADescribedMachineIsPlannedByTheSamePlanner) {
  const json said = run_json({"--synthetic", "pack:2 core:8 pu:2"});
  threading::PlanInputs inputs;
  inputs.topology = threading::topology_from_synthetic("pack:2 core:8 pu:2");
  inputs.blas = threading::blas_library();
  inputs.blas_team = threading::can_share_openmp_team();
  const ThreadPlan plan = threading::plan_threads(inputs);
  EXPECT_EQ(said["physical_cores"], 16);
  EXPECT_EQ(said["logical_cores"], 32);
  EXPECT_EQ(said["packages"], 2);
  EXPECT_EQ(said["intra_op"], plan.intra_op);
  EXPECT_EQ(said["inter_op"], plan.inter_op);
  EXPECT_EQ(said["dataloader"], plan.dataloader);
  EXPECT_EQ(said["preprocessing"], plan.preprocessing);
  EXPECT_EQ(said["training"], plan.training);
  EXPECT_EQ(said["inference"], plan.inference);
  EXPECT_EQ(said["reserved"], plan.reserved);
  EXPECT_EQ(said["reasons"], json(plan.reasons));
  EXPECT_TRUE(said["quota"].is_null()) << "this machine's limits say nothing about another";
}

TEST_F(TopologyProgramTest, ThisMachineIsPlannedAsTheOptimizerDoes) {
  const json said = run_json({});
  const ThreadPlan plan = ThreadingOptimizer().plan();
  EXPECT_EQ(said["physical_cores"], plan.physical_cores);
  EXPECT_EQ(said["intra_op"], plan.intra_op);
  EXPECT_EQ(said["inter_op"], plan.inter_op);
  EXPECT_EQ(said["dataloader"], plan.dataloader);
  EXPECT_EQ(said["preprocessing"], plan.preprocessing);
  EXPECT_EQ(said["blas"], plan.blas);
  EXPECT_EQ(said["blas_on_openmp"], plan.blas_on_openmp);
  EXPECT_EQ(said["short_spinning"], plan.short_spinning);
  EXPECT_EQ(said["tensor_memory"] > 0, plan.tensor_memory > 0) << "free memory changes meanwhile";
  EXPECT_EQ(said["onednn_rnn"], plan.onednn_rnn);
}

TEST_F(TopologyProgramTest, LargeActivationsAreWorthThreads) {
  const json said = run_json({"--synthetic", "core:2 pu:1", "--activation-bytes", "16777216"});
  threading::PlanInputs inputs;
  inputs.topology = threading::topology_from_synthetic("core:2 pu:1");
  inputs.blas = threading::blas_library();
  inputs.blas_team = threading::can_share_openmp_team();
  inputs.workload.activation_bytes = 16 << 20;
  EXPECT_EQ(said["intra_op"], 2);
  EXPECT_EQ(said["short_spinning"], threading::plan_threads(inputs).short_spinning);
}

TEST_F(TopologyProgramTest, EveryNumberIsPrintedWithItsReason) {
  const Ended ended = run({"--synthetic", "pack:2 core:8 pu:2"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  for (const char* text :
       {"cores        16 with 32 hardware threads in 2 packages", "intra_op = 16: one thread for each",
        "dataloader = 4: ", "preprocessing = 15: ", "training = 16: ", "inference = 16: "})
    EXPECT_NE(ended.out.find(text), std::string::npos) << text << " in\n" << ended.out;
}

TEST_F(TopologyProgramTest, AHybridMachineIsReadFromXml) {
  const json said = run_json({"--xml", testing::write_hybrid_machine(dir_)});
  EXPECT_EQ(said["performance_cores"], 2);
  EXPECT_EQ(said["efficiency_cores"], 4);
  EXPECT_EQ(said["intra_op"], 6);
}

TEST_F(TopologyProgramTest, AMaskInsideTheDescribedMachineCounts) {
  const json said = run_json({"--synthetic", "pack:2 core:8 pu:2", "--cpus", "0-7,16,17"});
  EXPECT_EQ(said["physical_cores"], 5);
  EXPECT_EQ(said["logical_cores"], 10);
}

TEST_F(TopologyProgramTest, AMadeUpTreesNestedLimitsAreRead) {
  const auto write = [&](const std::string& path, const std::string& text) {
    const auto file = std::filesystem::path(dir_.file("root")) / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  };
  write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw");
  write("proc/self/cgroup", "0::/a/b");
  write("sys/fs/cgroup/a/cpu.max", "150000 100000");
  write("sys/fs/cgroup/a/b/cpu.max", "400000 100000");
  write("proc/meminfo", "MemAvailable: 600000 kB");
  const json said = run_json({"--synthetic", "core:8 pu:2", "--cgroup-root", dir_.file("root")});
  EXPECT_EQ(said["quota"]["cpus"], 1.5);
  EXPECT_EQ(said["quota"]["source"], dir_.file("root") + "/sys/fs/cgroup/a/cpu.max");
  EXPECT_EQ(said["free_memory"]["bytes"], 614400000);
  EXPECT_EQ(said["training"], 2);
  EXPECT_EQ(said["dataloader"], 1);
}

TEST_F(TopologyProgramTest, MemoryAndDataCount) {
  EXPECT_EQ(run_json({"--synthetic", "core:16 pu:1", "--memory", "536870912"})["dataloader"], 2);
  EXPECT_EQ(run_json({"--synthetic", "core:16 pu:1", "--dataset-size", "500"})["dataloader"], 0);
  EXPECT_EQ(run_json({"--synthetic", "core:64 pu:1", "--dataset-size", "5000000", "--batch-size", "32",
                      "--sample-bytes", "4000"})["dataloader"],
            16);
}

TEST_F(TopologyProgramTest, PinningNamesTheCpusOfEach) {
  const json said = run_json({"--synthetic", "core:8 pu:1", "--workers", "2", "--pin"});
  EXPECT_EQ(said["trainer_cpus"], json({1, 2, 3, 4, 5}));
  EXPECT_EQ(said["dataloader_cpus"], json({6, 7}));
}

TEST_F(TopologyProgramTest, TheUsersVariablesWin) {
  setenv("OMP_NUM_THREADS", "3", 1);
  EXPECT_EQ(run_json({"--synthetic", "core:8 pu:1"})["intra_op"], 3);
}

TEST_F(TopologyProgramTest, WhatIsNotUnderstoodIsRefusedInALine) {
  expect_refused({"--synthetic", "pack:two"},
                 "expected hwloc's synthetic notation as in 'pack:2 core:8 pu:2', got 'pack:two'");
  expect_refused({"--synthetic", ""}, "expected hwloc's synthetic notation as in 'pack:2 core:8 pu:2', got ''");
  expect_refused({"--xml", "/nonexistent.xml"}, "expected a readable XML file of hwloc, got '/nonexistent.xml'");
  const Ended no_machine = run({"--xml", "/etc/passwd"});
  EXPECT_EQ(no_machine.code, 2);
  EXPECT_EQ(no_machine.out, "");
  EXPECT_EQ(std::regex_replace(no_machine.err, std::regex("^hwloc/[^\n]*\n"), ""),  // a line of hwloc 2.15's own
            "topology: expected a machine that hwloc can load, got the machine in '/etc/passwd'\n");
  expect_refused({"--cgroup-root", "/nonexistent"}, "--cgroup-root: expected a folder, got '/nonexistent'");
  expect_refused({"--synthetic", "core:8 pu:1", "--cpus", "3-1"},
                 "--cpus: expected CPU numbers below 65536 as in 0-7,16, got '3-1'");
  expect_refused({"--synthetic", "core:8 pu:1", "--cpus", ""},
                 "--cpus: expected CPU numbers below 65536 as in 0-7,16, got ''");
  expect_refused({"--synthetic", "core:8 pu:1", "--cpus", "9"},
                 "expected a mask with at least one CPU of the synthetic machine 'core:8 pu:1', got none");
  expect_refused({"--cpus", "0"}, "--cpus: goes with --synthetic or --xml; here, use taskset");
  EXPECT_EQ(run({"--synthetic", "core:8 pu:1", "--xml", "x"}).code, 2);
  EXPECT_EQ(run({"--memory", "-1"}).code, 2);
  EXPECT_EQ(run({"--memory", "much"}).code, 2);
  EXPECT_EQ(run({"--frobnicate"}).code, 2);
}

TEST_F(TopologyProgramTest, HelpNamesEveryOption) {
  const Ended ended = run({"--help"});
  EXPECT_EQ(ended.code, 0);
  for (const char* option : {"--synthetic", "--xml", "--cpus", "--cgroup-root", "--memory", "--dataset-size",
                             "--batch-size", "--sample-bytes", "--activation-bytes", "--workers", "--pin", "--json"})
    EXPECT_NE(ended.out.find(option), std::string::npos) << option;
}

}  // namespace
}  // namespace torchfeed
