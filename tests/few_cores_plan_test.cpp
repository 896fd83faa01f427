#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/planner.h>

#include <cstdint>
#include <map>
#include <string>

#include "support/plan_inputs.h"

namespace torchfeed::threading {
namespace {

/// With a LibTorch that takes so many threads inside an operator by itself.
ThreadPlan plan_with(int own_threads, const std::string& description, std::uint64_t activation_bytes = 0) {
  PlanInputs inputs = machine(description);
  inputs.default_intra_op = own_threads;
  inputs.workload.activation_bytes = activation_bytes;
  return plan_threads(inputs);
}

TEST(FewCoresPlanTest, FewCoresKeepLibTorchsOneThreadAndAllOfOpenBlass) {
  for (const int cores : {2, 3}) {
    const ThreadPlan plan = plan_with(1, "core:" + std::to_string(cores) + " pu:1");
    EXPECT_EQ(plan.intra_op, 1);
    EXPECT_EQ(plan.blas, cores);
    EXPECT_EQ(plan.training, cores);
    EXPECT_TRUE(
        has_reason(plan.reasons, "intra_op = 1: LibTorch's number before the first plan, which suits small tensors"));
  }
  EXPECT_EQ(plan_with(1, "core:4 pu:1").intra_op, 4);
}

TEST(FewCoresPlanTest, LargeActivationsAreWorthAThreadForEachOfFewCores) {
  const ThreadPlan large = plan_with(1, "core:2 pu:1", kLargeActivation);
  EXPECT_EQ(large.intra_op, 2);
  EXPECT_EQ(large.blas, 2);
  EXPECT_TRUE(large.short_spinning);
  const ThreadPlan small = plan_with(1, "core:2 pu:1", kLargeActivation - 1);
  EXPECT_EQ(small.intra_op, 1);
  EXPECT_TRUE(has_reason(small.reasons, "waking threads on 2 cores takes longer than they save with tensors of 4 MiB"));
}

TEST(FewCoresPlanTest, TwoCoresOnWhichLibTorchComputesGoOnAsWithoutAPlan) {
  const ThreadPlan plan = plan_with(2, "core:2 pu:1");
  EXPECT_EQ(plan.intra_op, 2);
  EXPECT_EQ(plan.blas, 2) << "a large product would take twice as long on one";
  EXPECT_FALSE(plan.short_spinning);
  EXPECT_TRUE(plan_with(2, "core:2 pu:1", kLargeActivation).short_spinning);
  EXPECT_TRUE(plan_with(3, "core:3 pu:1").short_spinning);
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.default_intra_op = inputs.intra_op = 2;
  EXPECT_EQ(plan_threads(inputs).blas, 2) << "as the user asks";
}

TEST(FewCoresPlanTest, OneThreadIsForOpenBlasWithThreadsOfItsOwnAlone) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.default_intra_op = 1;
  for (const BlasLibrary blas : {BlasLibrary::kNone, BlasLibrary::kMkl, BlasLibrary::kOpenBlasOnOpenMp}) {
    inputs.blas = blas;
    EXPECT_EQ(plan_threads(inputs).intra_op, 2) << "products have no other threads than these";
  }
}

/// Where OpenBLAS lets others run its parts.
PlanInputs machine_with_one_team(const std::string& description) {
  PlanInputs inputs = machine(description);
  inputs.blas_team = true;
  inputs.default_intra_op = inputs.topology.physical_cores;
  return inputs;
}

TEST(OneTeamPlanTest, OpenBlassProductsRunOnOpenMpsThreadsWhichGoOnSpinning) {
  for (const int cores : {2, 3, 16}) {
    const ThreadPlan plan = plan_threads(machine_with_one_team("core:" + std::to_string(cores) + " pu:1"));
    EXPECT_TRUE(plan.blas_on_openmp) << cores;
    EXPECT_EQ(plan.intra_op, cores);
    EXPECT_EQ(plan.blas, cores);
    EXPECT_FALSE(plan.short_spinning);
    EXPECT_TRUE(has_reason(plan.reasons, "blas_on_openmp = 1: OpenBLAS's products run on OpenMP's threads"));
  }
  EXPECT_FALSE(plan_threads(machine("core:2 pu:1")).blas_on_openmp);
}

TEST(OneTeamPlanTest, OneThreadNeedsNoTeam) {
  EXPECT_FALSE(plan_threads(machine_with_one_team("core:1 pu:1")).blas_on_openmp);
  PlanInputs inputs = machine_with_one_team("core:4 pu:1");
  inputs.intra_op = 1;
  EXPECT_FALSE(plan_threads(inputs).blas_on_openmp);
  inputs.intra_op = 0;
  inputs.variables = variables({{"OPENBLAS_NUM_THREADS", "1"}});
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_FALSE(plan.blas_on_openmp);
  EXPECT_EQ(plan.intra_op, 4);
  EXPECT_FALSE(plan.short_spinning) << "nobody else needs the cores";
}

TEST(OneTeamPlanTest, WhereOpenMpIsLimitedToOneThreadOpenBlasHasItsOwn) {
  PlanInputs inputs = machine_with_one_team("core:2 pu:1");
  inputs.default_intra_op = 1;
  inputs.variables = variables({{"OMP_THREAD_LIMIT", "1"}});
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_FALSE(plan.blas_on_openmp);
  EXPECT_EQ(plan.intra_op, 1);
  EXPECT_EQ(plan.blas, 2);
}

TEST(OneTeamPlanTest, TheOptionLeavesOpenBlasItsOwnThreads) {
  PlanInputs inputs = machine_with_one_team("core:2 pu:1");
  inputs.blas_on_openmp = false;
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_FALSE(plan.blas_on_openmp);
  EXPECT_EQ(plan.intra_op, 2);
  EXPECT_TRUE(has_reason(plan.reasons, "blas_on_openmp = 0: the option blas_on_openmp says so"));
}

TEST(FewCoresPlanTest, OneThreadOfOpenBlassGetsInNobodysWay) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.default_intra_op = 1;
  inputs.variables = variables({{"OPENBLAS_NUM_THREADS", "1"}});
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 2);
  EXPECT_EQ(plan.blas, 1);
  EXPECT_FALSE(plan.short_spinning);
}

TEST(OneTeamPlanTest, MoreThreadsOfOpenBlassThanOfOpenMpsStayItsOwn) {
  PlanInputs inputs = machine_with_one_team("core:2 pu:1");
  inputs.variables = variables({{"OPENBLAS_NUM_THREADS", "8"}});
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_FALSE(plan.blas_on_openmp);
  EXPECT_EQ(plan.intra_op, 2);
  EXPECT_EQ(plan.blas, 8);
}

TEST(FewCoresPlanTest, WithoutBlassOwnThreadsOpenMpsGoOnSpinning) {
  PlanInputs inputs = machine("core:8 pu:1");
  for (const BlasLibrary blas : {BlasLibrary::kNone, BlasLibrary::kOpenBlasOnOpenMp}) {
    inputs.blas = blas;
    EXPECT_FALSE(plan_threads(inputs).short_spinning);
  }
  inputs.blas = BlasLibrary::kMkl;
  EXPECT_TRUE(plan_threads(inputs).short_spinning);
}

TEST(FewCoresPlanTest, TheUsersNumbersGoBeforeThoseForFewCores) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.default_intra_op = 2;
  inputs.variables = variables({{"OMP_NUM_THREADS", "2"}});
  EXPECT_EQ(plan_threads(inputs).blas, 2);
  inputs.variables = variables({{"OPENBLAS_NUM_THREADS", "2"}});
  EXPECT_EQ(plan_threads(inputs).blas, 2);
  inputs.variables = {};
  inputs.default_intra_op = 1;
  inputs.intra_op = 2;
  EXPECT_EQ(plan_threads(inputs).intra_op, 2);
  EXPECT_EQ(plan_threads(inputs).blas, 2);
  EXPECT_EQ(plan_threads(inputs).training, 2);
}

TEST(LibraryPlanTest, AQuarterOfTheFreeMemoryMayLieIdleInFreedTensors) {
  PlanInputs inputs = machine("core:2 pu:1");
  inputs.memory = MemoryRoom{std::uint64_t{8} << 30, "/proc/meminfo"};
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.tensor_memory, std::uint64_t{2} << 30);
  EXPECT_TRUE(has_reason(plan.reasons, "a quarter of what /proc/meminfo leaves"));
  inputs.memory = MemoryRoom{std::uint64_t{1} << 40, "/proc/meminfo"};
  EXPECT_EQ(plan_threads(inputs).tensor_memory, std::uint64_t{4} << 30) << "there may be more such processes";
  EXPECT_TRUE(
      has_reason(plan_threads(inputs).reasons, "no more, though /proc/meminfo leaves more than four times that"));
  inputs.memory = MemoryRoom{std::uint64_t{1} << 30, "/sys/fs/cgroup/memory.max"};
  EXPECT_EQ(plan_threads(inputs).tensor_memory, 0U);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "tensor_memory = 0: freed tensors' memory goes back at once"));
  inputs.memory.reset();
  EXPECT_EQ(plan_threads(inputs).tensor_memory, std::uint64_t{1} << 30);
  inputs.tensor_memory = false;
  EXPECT_EQ(plan_threads(inputs).tensor_memory, 0U);
}

TEST(LibraryPlanTest, WhereTheUserHasSetUpMallocNoMemoryIsKept) {
  PlanInputs inputs = machine("core:2 pu:1");
  for (const auto& [name, value] :
       std::map<std::string, std::string>{{"MALLOC_TRIM_THRESHOLD_", "1000000"},
                                          {"MALLOC_MMAP_MAX_", "0"},
                                          {"GLIBC_TUNABLES", "glibc.cpu.hwcaps=x:glibc.malloc.tcache_count=100"},
                                          {"LD_PRELOAD", "/usr/lib/libjemalloc.so.2"}}) {
    inputs.variables = variables({{name, value}});
    EXPECT_EQ(plan_threads(inputs).tensor_memory, 0U) << name;
    EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "the environment's " + name + "=" + value)) << name;
  }
  inputs.variables = variables({{"GLIBC_TUNABLES", "glibc.cpu.hwcaps=x"}, {"LD_PRELOAD", "libeatmydata.so"}});
  EXPECT_GT(plan_threads(inputs).tensor_memory, 0U);
}

}  // namespace
}  // namespace torchfeed::threading
