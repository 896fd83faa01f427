#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/thread_plan.h>

#include <map>
#include <string>

namespace torchfeed::threading {
namespace {

PlanInputs machine(const std::string& description, const std::vector<int>& mask = {}) {
  PlanInputs inputs;
  inputs.topology = topology_from_synthetic(description, mask);
  inputs.blas = BlasLibrary::kOpenBlas;
  return inputs;
}

ThreadVariables variables(const std::map<std::string, std::string>& values) {
  return read_thread_variables([&](const char* name) -> const char* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  });
}

bool has_reason(const std::vector<std::string>& reasons, const std::string& text) {
  for (const auto& reason : reasons)
    if (reason.find(text) != std::string::npos) return true;
  return false;
}

TEST(ThreadPlanTest, TrainingGetsOneThreadPerPhysicalCoreNotPerHardwareThread) {
  const PlannedThreads plan = plan_threads(machine("pack:2 core:8 pu:2"));
  EXPECT_EQ(plan.intra_op, 16);
  EXPECT_EQ(plan.blas, 16);
  EXPECT_EQ(plan.inter_op, 1);
  EXPECT_EQ(plan.dataloader, 4);
  EXPECT_TRUE(has_reason(plan.reasons, "intra_op = 16: one thread for each of 16 physical cores (not their 32"));
}

TEST(ThreadPlanTest, OneCoreMakesBatchesInline) {
  const PlannedThreads plan = plan_threads(machine("core:1 pu:2"));
  EXPECT_EQ(plan.intra_op, 1);
  EXPECT_EQ(plan.dataloader, 0);
}

TEST(ThreadPlanTest, TwoCoresHaveOneWorker) { EXPECT_EQ(plan_threads(machine("core:2 pu:1")).dataloader, 1); }

TEST(ThreadPlanTest, A128CoreMachineUsesThemAll) {
  const PlannedThreads plan = plan_threads(machine("pack:2 core:64 pu:2"));
  EXPECT_EQ(plan.intra_op, 128);
  EXPECT_EQ(plan.dataloader, 4);
}

TEST(ThreadPlanTest, AMaskOfHalfTheCoresHalvesThePlan) {
  EXPECT_EQ(plan_threads(machine("core:8 pu:1", {0, 1, 2, 3})).intra_op, 4);
}

TEST(ThreadPlanTest, ACpuQuotaIsRoundedUpAndNamed) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.quota = CpuQuota{1.5, "/sys/fs/cgroup/cpu.max"};
  const PlannedThreads plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 2);
  EXPECT_EQ(plan.dataloader, 1);
  EXPECT_TRUE(has_reason(plan.reasons, "the CPU quota of 1.5 in /sys/fs/cgroup/cpu.max"));
}

TEST(ThreadPlanTest, AQuotaAboveTheCoresChangesNothing) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.quota = CpuQuota{8, "x"};
  EXPECT_EQ(plan_threads(inputs).intra_op, 2);
}

TEST(ThreadPlanTest, OmpNumThreadsWinsAndIsNamed) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "3"}, {"MKL_NUM_THREADS", "5"}});
  const PlannedThreads plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 3);
  EXPECT_EQ(plan.blas, 3);
  EXPECT_EQ(plan.inter_op, 2);
  EXPECT_TRUE(has_reason(plan.reasons, "intra_op = 3: the environment's OMP_NUM_THREADS"));
}

TEST(ThreadPlanTest, MklNumThreadsCountsWhereOmpNumThreadsIsMissing) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"MKL_NUM_THREADS", "5"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 5);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "MKL_NUM_THREADS"));
}

TEST(ThreadPlanTest, OpenBlasNumThreadsDecidesForOpenBlasAlone) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OPENBLAS_NUM_THREADS", "2"}});
  EXPECT_EQ(plan_threads(inputs).blas, 2);
  EXPECT_EQ(plan_threads(inputs).intra_op, 8);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "blas = 2: the environment's OPENBLAS_NUM_THREADS"));
  inputs.blas = BlasLibrary::kMkl;
  EXPECT_EQ(plan_threads(inputs).blas, 8);
}

TEST(ThreadPlanTest, MklNumThreadsDecidesForMkl) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.blas = BlasLibrary::kMkl;
  inputs.variables = variables({{"OMP_NUM_THREADS", "8"}, {"MKL_NUM_THREADS", "2"}});
  EXPECT_EQ(plan_threads(inputs).blas, 2);
}

TEST(ThreadPlanTest, WithoutABlasLibraryItsCountIsZero) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.blas = BlasLibrary::kNone;
  EXPECT_EQ(plan_threads(inputs).blas, 0);
}

TEST(ThreadPlanTest, AnOptionGoesBeforeTheEnvironmentAndSaysSo) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "3"}});
  inputs.intra_op = 4;
  inputs.inter_op = 5;
  const PlannedThreads plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 4);
  EXPECT_EQ(plan.inter_op, 5);
  EXPECT_TRUE(has_reason(plan.reasons, "asked for by the option intra_op, which goes before OMP_NUM_THREADS=3"));
}

TEST(ThreadPlanTest, AnEnvironmentAboveTheCoresIsFollowedAndTold) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "16"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 16);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "above the 2 cores"));
}

TEST(ThreadPlanTest, AListForNestedRegionsGivesItsFirstNumber) {
  EXPECT_EQ(variables({{"OMP_NUM_THREADS", " 4 ,2"}}).omp_num_threads, 4);
}

TEST(ThreadPlanTest, VariablesThatAreNoNumberOfThreadsAreLeftOutAndTold) {
  for (const char* value : {"many", "0", "-2", "4.5", "4x", "99999999999", "5000"}) {
    const ThreadVariables read = variables({{"OMP_NUM_THREADS", value}});
    EXPECT_FALSE(read.omp_num_threads) << value;
    ASSERT_EQ(read.notes.size(), 1u) << value;
    EXPECT_EQ(read.notes[0], std::string("OMP_NUM_THREADS=") + value + " is left out: expected 1 to 4096 threads");
  }
  EXPECT_TRUE(variables({{"OMP_NUM_THREADS", ""}}).notes.empty());
}

TEST(ThreadPlanTest, EveryNumberHasAReason) {
  const PlannedThreads plan = plan_threads(machine("pack:2 core:8 pu:2"));
  for (const char* text :
       {"physical_cores = 16", "logical_cores = 32", "intra_op = 16", "inter_op = 1", "blas = 16", "dataloader = 4"})
    EXPECT_TRUE(has_reason(plan.reasons, text)) << text;
}

}  // namespace
}  // namespace torchfeed::threading
