#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/planner.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "support/hybrid_machine.h"
#include "support/plan_inputs.h"
#include "support/temp_dir.h"

namespace torchfeed::threading {
namespace {

TEST(ThreadPlanTest, TrainingGetsOneThreadPerPhysicalCoreNotPerHardwareThread) {
  const ThreadPlan plan = plan_threads(machine("pack:2 core:8 pu:2"));
  EXPECT_EQ(plan.intra_op, 16);
  EXPECT_EQ(plan.blas, 16);
  EXPECT_EQ(plan.dataloader, 4);
  EXPECT_TRUE(has_reason(plan.reasons, "intra_op = 16: one thread for each of 16 physical cores (not their 32"));
}

TEST(ThreadPlanTest, OneCoreMakesBatchesInline) {
  const ThreadPlan plan = plan_threads(machine("core:1 pu:2"));
  EXPECT_EQ(plan.intra_op, 1);
  EXPECT_EQ(plan.dataloader, 0);
}

TEST(ThreadPlanTest, TwoCoresHaveOneWorker) { EXPECT_EQ(plan_threads(machine("core:2 pu:1")).dataloader, 1); }

TEST(ThreadPlanTest, A128CoreMachineUsesThemAll) {
  const ThreadPlan plan = plan_threads(machine("pack:2 core:64 pu:2"));
  EXPECT_EQ(plan.intra_op, 128);
  EXPECT_EQ(plan.dataloader, 4);
}

TEST(ThreadPlanTest, AMaskOfHalfTheCoresHalvesThePlan) {
  EXPECT_EQ(plan_threads(machine("core:8 pu:1", {0, 1, 2, 3})).intra_op, 4);
}

TEST(ThreadPlanTest, ACpuQuotaIsRoundedUpAndNamed) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.quota = CpuQuota{3.5, "/sys/fs/cgroup/cpu.max"};
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 4);
  EXPECT_EQ(plan.dataloader, 3);
  EXPECT_TRUE(has_reason(plan.reasons, "the CPU quota of 3.5 in /sys/fs/cgroup/cpu.max"));
  inputs.quota = CpuQuota{1.5, "/sys/fs/cgroup/cpu.max"};
  EXPECT_EQ(plan_threads(inputs).training, 2);
  EXPECT_EQ(plan_threads(inputs).dataloader, 1);
}

TEST(ThreadPlanTest, AQuotaAboveTheCoresChangesNothing) {
  PlanInputs inputs = machine("core:4 pu:1");
  inputs.quota = CpuQuota{8, "x"};
  EXPECT_EQ(plan_threads(inputs).intra_op, 4);
}

TEST(ThreadPlanTest, MklNumThreadsGoesBeforeOmpNumThreadsAsInLibTorch) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "3"}, {"MKL_NUM_THREADS", "5"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 5);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "intra_op = 5: the environment's MKL_NUM_THREADS"));
}

TEST(ThreadPlanTest, OmpThreadLimitCapsWhatIsAskedFor) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "6"}, {"OMP_THREAD_LIMIT", "4"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 4);
  inputs.intra_op = 8;
  EXPECT_EQ(plan_threads(inputs).intra_op, 4);
}

TEST(ThreadPlanTest, AWorkloadWithoutWorkersLeavesKAutoNone) {
  PlanInputs inputs = machine("core:8 pu:1");
  EXPECT_GT(plan_threads(inputs).dataloader_limit, 0);
  inputs.workload.dataloader = 0;
  EXPECT_EQ(plan_threads(inputs).dataloader_limit, 0);
}

TEST(ThreadPlanTest, OmpNumThreadsWinsAndIsNamed) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_NUM_THREADS", "3"}});
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 3);
  EXPECT_EQ(plan.blas, 3);
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
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 4);
  EXPECT_EQ(plan.inter_op, 5);
  EXPECT_TRUE(has_reason(plan.reasons, "asked for by the option intra_op, which goes before OMP_NUM_THREADS=3"));
}

TEST(ThreadPlanTest, InterOpStaysLibTorchsOwnUnlessAsked) {
  PlanInputs inputs = machine("core:8 pu:2");
  EXPECT_EQ(plan_threads(inputs).inter_op, 8) << "of another machine, one for each core";
  inputs.default_inter_op = 5;
  EXPECT_EQ(plan_threads(inputs).inter_op, 5);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "inter_op = 5: LibTorch's own number"));
  inputs.pin = true;
  EXPECT_EQ(plan_threads(inputs).inter_op, 5);
  inputs.inter_op = 3;
  EXPECT_EQ(plan_threads(inputs).inter_op, 3);
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
  const ThreadPlan plan = plan_threads(machine("pack:2 core:8 pu:2"));
  for (const char* text :
       {"physical_cores = 16", "logical_cores = 32", "intra_op = 16: ", "inter_op = 16: ", "blas = 16: ",
        "training = 16: ", "dataloader = 4: ", "dataloader_limit = 32: ", "preprocessing = 15: ", "inference = 16: ",
        "reserved = 1: ", "primitive_cache = 4096: ", "no thread is bound to a CPU: "})
    EXPECT_TRUE(has_reason(plan.reasons, text)) << text;
}

TEST(ThreadPlanTest, TheThreadLimitOfOpenMpCapsThePlan) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.variables = variables({{"OMP_THREAD_LIMIT", "3"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 3);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "intra_op = 3: the environment's OMP_THREAD_LIMIT"));
}

TEST(ThreadPlanTest, VariablesThatBindThreadsAreKnownFromThoseThatDoNot) {
  EXPECT_EQ(variables({{"OMP_PROC_BIND", "close"}}).binding, "OMP_PROC_BIND=close");
  EXPECT_EQ(variables({{"GOMP_CPU_AFFINITY", "0 1"}}).binding, "GOMP_CPU_AFFINITY=0 1");
  EXPECT_EQ(variables({{"KMP_AFFINITY", "granularity=fine"}}).binding, "KMP_AFFINITY=granularity=fine");
  EXPECT_EQ(variables({{"OMP_PLACES", "cores"}}).binding, "OMP_PLACES=cores");
  EXPECT_EQ(variables({{"OMP_PROC_BIND", "FALSE"}, {"OMP_PLACES", "cores"}}).binding, "");
  EXPECT_EQ(variables({{"KMP_AFFINITY", "none"}}).binding, "");
  EXPECT_EQ(variables({}).binding, "");
}

/// The first cores are fast.
PlanInputs hybrid_machine(int performance, int efficiency) {
  PlanInputs inputs = machine("core:" + std::to_string(performance + efficiency) + " pu:1");
  for (int core = performance; core < performance + efficiency; ++core)
    inputs.topology.cores[static_cast<size_t>(core)].kind = CoreKind::kEfficiency;
  return inputs;
}

TEST(ThreadPlanTest, OperatorsRunOnPerformanceCoresAndWorkersOnEfficiencyCores) {
  const ThreadPlan plan = plan_threads(hybrid_machine(6, 4));
  EXPECT_EQ(plan.performance_cores, 6);
  EXPECT_EQ(plan.efficiency_cores, 4);
  EXPECT_EQ(plan.intra_op, 6);
  EXPECT_EQ(plan.dataloader, 3);
  EXPECT_EQ(plan.preprocessing, 9);
  EXPECT_EQ(plan.inference, 6);
  EXPECT_TRUE(has_reason(plan.reasons, "intra_op = 6: one thread for each of 6 performance cores"));
}

TEST(ThreadPlanTest, OperatorsRunOnAllCoresWhereEfficiencyCoresAreMany) {
  const torchfeed::testing::TempDir directory;
  PlanInputs inputs;
  inputs.topology = topology_from_xml(torchfeed::testing::write_hybrid_machine(directory));
  EXPECT_EQ(plan_threads(inputs).performance_cores, 2);
  EXPECT_EQ(plan_threads(inputs).efficiency_cores, 4);
  EXPECT_EQ(plan_threads(inputs).intra_op, 6) << "six parts at an efficiency core's speed: 3.3 performance cores";
  EXPECT_EQ(plan_threads(inputs).inference, 6);
  EXPECT_EQ(plan_threads(hybrid_machine(2, 8)).intra_op, 10);
  EXPECT_EQ(plan_threads(hybrid_machine(5, 4)).intra_op, 5) << "5 * 1.8 = 9 cores";
  EXPECT_EQ(plan_threads(hybrid_machine(5, 5)).intra_op, 10);
}

TEST(ThreadPlanTest, EfficiencyCoresComputeWhereThereAreNoOthers) {
  const torchfeed::testing::TempDir directory;
  PlanInputs inputs;
  inputs.topology = topology_from_xml(torchfeed::testing::write_hybrid_machine(directory), {4, 5, 6});
  EXPECT_EQ(plan_threads(inputs).intra_op, 3);
  EXPECT_EQ(plan_threads(inputs).inference, 3);
  EXPECT_EQ(plan_threads(inputs).dataloader, 2);
}

TEST(ThreadPlanTest, InferenceStaysOnOneNumaNode) {
  EXPECT_EQ(plan_threads(machine("pack:2 [numa] core:64 pu:2")).inference, 64);
  PlanInputs inputs = machine("numa:2 core:4 pu:1", {0, 1, 2, 4, 5, 6, 7});
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "inference = 4: the 4 cores of NUMA node 1"));
  inputs.quota = CpuQuota{2, "x"};
  EXPECT_EQ(plan_threads(inputs).inference, 2);
}

TEST(ThreadPlanTest, MemoryPoorMachinesGetFewerWorkersAndSayWhy) {
  PlanInputs inputs = machine("core:16 pu:1");
  inputs.memory = MemoryRoom{std::uint64_t{512} << 20, "/proc/meminfo"};
  EXPECT_EQ(plan_threads(inputs).dataloader, 2) << "128 MiB each of half";
  EXPECT_EQ(plan_threads(inputs).dataloader_limit, 2);
  EXPECT_EQ(plan_threads(inputs).preprocessing, 2);
  EXPECT_EQ(plan_threads(inputs).intra_op, 16);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons,
                         "dataloader = 2: memory is short: as many as fit into half of the 512 MiB that /proc/meminfo "
                         "leaves, at 128 MiB a worker"));
  inputs.workload.worker_bytes = std::uint64_t{32} << 20;
  EXPECT_EQ(plan_threads(inputs).dataloader, 4);
  inputs.workload.batch_size = 16;
  inputs.workload.sample_bytes = std::uint64_t{3} << 20;
  EXPECT_EQ(plan_threads(inputs).dataloader, 2) << "two batches of 48 MiB for each worker count too";
  inputs.memory->bytes = 1000;
  EXPECT_EQ(plan_threads(inputs).dataloader, 0);
  EXPECT_EQ(plan_threads(inputs).preprocessing, 1) << "the work has to be done";
}

TEST(ThreadPlanTest, ByteCountsThatOverflowMeanNoWorker) {
  PlanInputs inputs = machine("core:16 pu:1");
  inputs.memory = MemoryRoom{std::uint64_t{64} << 30, "x"};
  inputs.workload.dataset_size = inputs.workload.batch_size = inputs.workload.sample_bytes = std::uint64_t{1} << 63;
  EXPECT_EQ(plan_threads(inputs).dataloader, 0);
}

TEST(ThreadPlanTest, SmallDataGetFewWorkersAndLargeDataMore) {
  PlanInputs inputs = machine("pack:2 core:16 pu:1");
  const auto workers = [&](std::uint64_t samples, std::uint64_t sample_bytes = 0, std::uint64_t batch_size = 0) {
    inputs.workload.dataset_size = samples;
    inputs.workload.sample_bytes = sample_bytes;
    inputs.workload.batch_size = batch_size;
    return plan_threads(inputs).dataloader;
  };
  EXPECT_EQ(workers(0), 4) << "unknown";
  EXPECT_EQ(workers(500), 0);
  EXPECT_EQ(workers(5'000), 2);
  EXPECT_EQ(workers(50'000), 4);
  EXPECT_EQ(workers(5'000'000), 8) << "a quarter of the cores";
  EXPECT_EQ(workers(5'000, 1 << 20), 8) << "few samples, but 5 GiB";
  EXPECT_EQ(workers(500, 1 << 20), 4);
  EXPECT_EQ(workers(5'000, 100, 5'000), 1) << "no more than batches";
  inputs.topology = topology_from_synthetic("core:2 pu:1");
  EXPECT_EQ(workers(5'000'000), 1);
}

TEST(ThreadPlanTest, WithoutALoaderBesideTrainingTheTrainerKeepsEveryCore) {
  const ThreadPlan plan = plan_threads(machine("core:16 pu:1"));
  EXPECT_EQ(plan.intra_op, 16);
  EXPECT_TRUE(plan.trainer_cpus.empty());
  EXPECT_TRUE(plan.dataloader_cpus.empty());
}

TEST(ThreadPlanTest, WorkersBesideTrainingGetCoresThatTheTrainerLeaves) {
  PlanInputs inputs = machine("core:16 pu:1");
  inputs.workload.dataloader = 3;
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.dataloader, 3);
  EXPECT_EQ(plan.intra_op, 12);
  EXPECT_EQ(plan.training, 12);
  EXPECT_EQ(plan.blas, 12);
  EXPECT_EQ(plan.reserved, 1);
  EXPECT_TRUE(plan.trainer_cpus.empty()) << "bound only when asked";
  EXPECT_TRUE(has_reason(plan.reasons, "what 3 cores for the loader's workers and 1 core for the system leave of 16"));
  inputs.workload.dataloader = 40;
  EXPECT_EQ(plan_threads(inputs).intra_op, 7) << "workers take half of the cores at most";
  EXPECT_EQ(plan_threads(inputs).dataloader, 40);
}

TEST(ThreadPlanTest, TooFewCoresAreNotDivided) {
  PlanInputs inputs = machine("core:4 pu:1");
  inputs.workload.dataloader = 2;
  inputs.pin = true;
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 4);
  EXPECT_EQ(plan.dataloader, 2);
  EXPECT_TRUE(plan.trainer_cpus.empty());
  EXPECT_TRUE(has_reason(plan.reasons, "bound to a CPU: it takes 8 cores to set some apart, and there are 4"));
}

bool disjoint(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both.empty();
}

TEST(ThreadPlanTest, PinnedTrainerAndWorkersShareNoCoreAndLeaveOneToTheSystem) {
  PlanInputs inputs = machine("pack:2 [numa] core:8 pu:2");
  inputs.pin = true;
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.trainer_cpus, (std::vector<int>{2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22})) << "one CPU of each core";
  EXPECT_EQ(plan.dataloader_cpus, (std::vector<int>{24, 25, 26, 27, 28, 29, 30, 31}));
  EXPECT_EQ(plan.intra_op, static_cast<int>(plan.trainer_cpus.size()));
  EXPECT_TRUE(disjoint(plan.trainer_cpus, plan.dataloader_cpus));
  EXPECT_TRUE(has_reason(plan.reasons, "trainer_cpus = 2-22:2: one of each core, on NUMA nodes 0-1"));
  EXPECT_TRUE(has_reason(plan.reasons, "dataloader_cpus = 24-31: all of each core, on NUMA node 1"));
}

TEST(ThreadPlanTest, PinnedWorkersOfAHybridMachineLeaveTheTrainerEveryPerformanceCore) {
  PlanInputs inputs = hybrid_machine(5, 4);
  inputs.pin = true;
  ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.trainer_cpus, (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_EQ(plan.dataloader_cpus, (std::vector<int>{5, 6, 7}));
  EXPECT_EQ(plan.reserved, 1) << "core 8";
  inputs = hybrid_machine(3, 5);
  inputs.pin = true;
  plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 3) << "of eight cores all would compute, of the five that workers leave the fast ones";
  EXPECT_EQ(plan.trainer_cpus, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(plan.dataloader_cpus, (std::vector<int>{5, 6}));
}

TEST(ThreadPlanTest, PinningWithoutAKnownLoaderGivesWorkersAQuarterOfTheCores) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.pin = true;
  EXPECT_EQ(plan_threads(inputs).dataloader, 2);
  EXPECT_EQ(plan_threads(inputs).trainer_cpus.size(), 5u);
  EXPECT_EQ(plan_threads(inputs).dataloader_cpus.size(), 2u);
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "dataloader = 2: worker processes on a quarter of the cores"));
}

TEST(ThreadPlanTest, ThreadsThatTheUserAskedForAreNotBoundToFewerCores) {
  PlanInputs inputs = machine("core:16 pu:1");
  inputs.pin = true;
  const auto asking = [&](const std::string& threads) {
    inputs.variables = variables({{"OMP_NUM_THREADS", threads}});
    return plan_threads(inputs);
  };
  EXPECT_EQ(asking("13").trainer_cpus.size(), 13u);
  EXPECT_EQ(asking("13").dataloader_cpus.size(), 2u) << "what they and the system leave";
  for (const char* threads : {"15", "16", "40"}) {
    EXPECT_TRUE(asking(threads).trainer_cpus.empty()) << threads;
    EXPECT_TRUE(has_reason(asking(threads).reasons, std::string("bound to a CPU: the ") + threads + " threads of"))
        << threads;
  }
}

TEST(ThreadPlanTest, AQuotaCountsAsTheCoresWhereCpusAreGivenOut) {
  PlanInputs inputs = machine("core:32 pu:1");
  inputs.quota = CpuQuota{9.5, "x"};
  inputs.pin = true;
  const ThreadPlan plan = plan_threads(inputs);
  EXPECT_EQ(plan.intra_op, 7);
  EXPECT_EQ(plan.trainer_cpus.size(), 7u);
  EXPECT_EQ(plan.dataloader_cpus.size(), 2u);
}

TEST(ThreadPlanTest, TheUsersThreadsAndBindingGoBeforePinning) {
  PlanInputs inputs = machine("core:16 pu:1");
  inputs.pin = true;
  inputs.variables = variables({{"OMP_NUM_THREADS", "3"}});
  EXPECT_EQ(plan_threads(inputs).intra_op, 3);
  EXPECT_EQ(plan_threads(inputs).trainer_cpus.size(), 3u);
  inputs.variables = variables({{"OMP_PROC_BIND", "close"}});
  EXPECT_TRUE(plan_threads(inputs).trainer_cpus.empty());
  EXPECT_TRUE(has_reason(plan_threads(inputs).reasons, "OMP_PROC_BIND=close binds them"));
}

TEST(ThreadPlanTest, EveryMachineGetsAPlanWithinItsCores) {
  for (const char* description :
       {"core:1 pu:1", "core:2 pu:2", "core:7 pu:1", "core:8 pu:2", "pack:2 [numa] core:64 pu:2", "numa:3 core:5 pu:1",
        "pack:4 [numa] l3:4 core:6 pu:4"}) {
    for (const double quota : {0.0, 0.2, 1.5, 8.0, 33.3}) {
      for (const int dataloader : {-1, 0, 1, 5, 1000}) {
        PlanInputs inputs = machine(description);
        if (quota > 0) inputs.quota = CpuQuota{quota, "x"};
        inputs.workload.dataloader = dataloader;
        inputs.pin = true;
        const ThreadPlan plan = plan_threads(inputs);
        const auto cores = static_cast<size_t>(plan.physical_cores);
        const std::string what =
            std::string(description) + ", " + std::to_string(quota) + ", " + std::to_string(dataloader);
        EXPECT_GE(plan.intra_op, 1) << what;
        EXPECT_LE(plan.training, plan.physical_cores) << what;
        EXPECT_LE(plan.trainer_cpus.size() + plan.dataloader_cpus.size() / 4, cores) << what;
        EXPECT_TRUE(disjoint(plan.trainer_cpus, plan.dataloader_cpus)) << what;
        EXPECT_EQ(plan.trainer_cpus.empty(), plan.dataloader_cpus.empty()) << what;
        EXPECT_GE(plan.preprocessing, 1) << what;
        EXPECT_LE(plan.inference, plan.physical_cores) << what;
      }
    }
  }
}

TEST(ThreadPlanTest, ALoaderIsConfiguredForItsData) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.workload = {.dataset_size = 100'000, .batch_size = 32, .sample_bytes = 1000};
  DataLoaderConfig config = plan_data_loader(inputs, /*cuda=*/true);
  EXPECT_EQ(config.num_workers, 4);
  EXPECT_EQ(config.prefetch_factor, 4) << "small batches";
  EXPECT_TRUE(config.persistent_workers);
  EXPECT_TRUE(config.pin_memory);
  EXPECT_EQ(config.reasons.size(), 4u);
  EXPECT_TRUE(has_reason(config.reasons, "num_workers = 4: worker processes beside the trainer"));
  inputs.workload.sample_bytes = 600'000;
  EXPECT_EQ(plan_data_loader(inputs, false).prefetch_factor, 2);
  EXPECT_FALSE(plan_data_loader(inputs, false).pin_memory);
  inputs.memory = MemoryRoom{std::uint64_t{1} << 30, "x"};
  inputs.workload.worker_bytes = 1;
  config = plan_data_loader(inputs, false);
  EXPECT_EQ(config.num_workers, 4);
  EXPECT_EQ(config.prefetch_factor, 2);
  inputs.workload.sample_bytes = 1'500'000;
  EXPECT_EQ(plan_data_loader(inputs, false).prefetch_factor, 1) << "8 batches of 46 MiB";
}

TEST(ThreadPlanTest, ALoaderOfSmallDataHasNoWorkersAndNothingOfTheirs) {
  PlanInputs inputs = machine("core:8 pu:1");
  inputs.workload = {.dataset_size = 100, .batch_size = 32};
  const DataLoaderConfig config = plan_data_loader(inputs, true);
  EXPECT_EQ(config.num_workers, 0);
  EXPECT_FALSE(config.persistent_workers);
  EXPECT_FALSE(config.pin_memory);
}

}  // namespace
}  // namespace torchfeed::threading
