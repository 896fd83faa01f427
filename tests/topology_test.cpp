#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/topology.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "support/hybrid_machine.h"
#include "support/temp_dir.h"

namespace torchfeed::threading {
namespace {

using torchfeed::testing::write_hybrid_machine;

/// Runs a statement in this program started anew, so that what libraries read while they are loaded is read again.
class TopologyDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override {
    for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "HWLOC_SYNTHETIC"}) unsetenv(name);
  }
};

std::vector<int> first_cpus(int count) {
  std::vector<int> cpus(count);
  std::iota(cpus.begin(), cpus.end(), 0);
  return cpus;
}

std::vector<int> first_cpus_of(const CpuTopology& machine) {
  std::vector<int> cpus;
  for (const CpuCore& core : machine.cores) cpus.push_back(core.cpus.front());
  return cpus;
}

TEST(TopologyTest, TwoSocketsWithSmtHaveHalfAsManyCoresAsCpus) {
  const CpuTopology machine = topology_from_synthetic("pack:2 core:8 pu:2");
  EXPECT_EQ(machine.physical_cores, 16);
  EXPECT_EQ(machine.logical_cores, 32);
  EXPECT_EQ(machine.cpus, first_cpus(32));
  ASSERT_EQ(machine.cores.size(), 16u);
  for (int core = 0; core < 16; ++core) {
    EXPECT_EQ(machine.cores[core].cpus, (std::vector<int>{2 * core, 2 * core + 1}));
    EXPECT_EQ(machine.cores[core].package, core / 8);
    EXPECT_EQ(machine.cores[core].kind, CoreKind::kPerformance);
  }
  EXPECT_EQ(machine.packages, 2);
  EXPECT_TRUE(machine.smt());
  EXPECT_EQ(machine.origin, "the synthetic machine 'pack:2 core:8 pu:2'");
}

TEST(TopologyTest, AMachineOfOneCoreHasOneCore) {
  const CpuTopology machine = topology_from_synthetic("core:1 pu:1");
  EXPECT_EQ(machine.physical_cores, 1);
  EXPECT_EQ(machine.logical_cores, 1);
  EXPECT_FALSE(machine.smt());
}

TEST(TopologyTest, A128CoreMachineIsCountedWhole) {
  const CpuTopology machine = topology_from_synthetic("pack:2 numa:4 core:16 pu:2");
  EXPECT_EQ(machine.physical_cores, 128);
  EXPECT_EQ(machine.logical_cores, 256);
}

TEST(TopologyTest, AMaskOfHalfTheCoresLeavesHalfTheCores) {
  const CpuTopology machine = topology_from_synthetic("pack:2 core:8 pu:2", first_cpus(16));
  EXPECT_EQ(machine.physical_cores, 8);
  EXPECT_EQ(machine.logical_cores, 16);
}

TEST(TopologyTest, AMaskOfOneThreadPerCoreKeepsEveryCoreAndLosesSmt) {
  const CpuTopology machine = topology_from_synthetic("pack:1 core:4 pu:2", {1, 3, 5, 7});
  EXPECT_EQ(machine.physical_cores, 4);
  EXPECT_EQ(machine.logical_cores, 4);
  EXPECT_EQ(first_cpus_of(machine), (std::vector<int>{1, 3, 5, 7}));
  EXPECT_FALSE(machine.smt());
}

TEST(TopologyTest, BothThreadsOfOneCoreAreOneCore) {
  const CpuTopology machine = topology_from_synthetic("pack:1 core:4 pu:2", {2, 3});
  EXPECT_EQ(machine.physical_cores, 1);
  EXPECT_EQ(machine.logical_cores, 2);
}

TEST(TopologyTest, AMachineWithoutCoreObjectsCountsItsCpus) {
  const CpuTopology machine = topology_from_synthetic("pack:2 pu:3");
  EXPECT_EQ(machine.physical_cores, 6);
  EXPECT_EQ(machine.logical_cores, 6);
}

TEST(TopologyTest, NumaNodesCachesAndWhichCoreBelongsToThemAreTold) {
  const CpuTopology machine =
      topology_from_synthetic("pack:2 [numa(memory=4294967296)] l3:2(size=33554432) l2:4(size=1048576) core:1 pu:2");
  ASSERT_EQ(machine.numa_nodes.size(), 2u);
  EXPECT_EQ(machine.numa_nodes[1].number, 1);
  EXPECT_EQ(machine.numa_nodes[1].memory_bytes, 4294967296u);
  EXPECT_EQ(machine.l2_bytes, 1048576u);
  EXPECT_EQ(machine.last_level_bytes, 33554432u);
  ASSERT_EQ(machine.cores.size(), 16u);
  for (int core = 0; core < 16; ++core) {
    EXPECT_EQ(machine.cores[core].numa_node, core / 8) << core;
    EXPECT_EQ(machine.cores[core].last_level_cache, core / 4) << core;
  }
}

TEST(TopologyTest, ANodeOutsideTheMaskIsLeftOut) {
  const CpuTopology machine = topology_from_synthetic("numa:4 core:2 pu:1", {2, 3, 6});
  ASSERT_EQ(machine.numa_nodes.size(), 2u);
  EXPECT_EQ(machine.numa_nodes[0].number, 1);
  EXPECT_EQ(machine.numa_nodes[1].number, 3);
}

TEST(TopologyTest, AHybridMachinesCoresHaveTheirKinds) {
  const torchfeed::testing::TempDir directory;
  const CpuTopology machine = topology_from_xml(write_hybrid_machine(directory));
  EXPECT_EQ(machine.physical_cores, 6);
  EXPECT_EQ(machine.logical_cores, 8);
  EXPECT_EQ(machine.count(CoreKind::kPerformance), 2);
  EXPECT_EQ(machine.count(CoreKind::kEfficiency), 4);
  EXPECT_EQ(machine.cores[1].kind, CoreKind::kPerformance);
  EXPECT_EQ(machine.cores[2].kind, CoreKind::kEfficiency);
}

TEST(TopologyTest, TheKindIsTheMachinesNotTheMasks) {
  const torchfeed::testing::TempDir directory;
  const CpuTopology machine = topology_from_xml(write_hybrid_machine(directory), {4, 5});
  EXPECT_EQ(machine.count(CoreKind::kPerformance), 0);
  EXPECT_EQ(machine.count(CoreKind::kEfficiency), 2);
}

TEST(TopologyTest, CoresNearlyAsFastAsTheBestAreNoEfficiencyCores) {
  const torchfeed::testing::TempDir directory;
  const auto kinds = [&](const char* name, const std::string& value) {
    const std::string info = "\"><info name=\"" + std::string(name) + "\" value=\"";
    return topology_from_xml(write_hybrid_machine(directory, " <cpukind cpuset=\"0xf0" + info + value +
                                                                 "\"/></cpukind>\n" + " <cpukind cpuset=\"0x0f" + info +
                                                                 "1000\"/></cpukind>\n"))
        .count(CoreKind::kEfficiency);
  };
  EXPECT_EQ(kinds("LinuxCapacity", "900"), 0) << "Arm's second size of big cores";
  EXPECT_EQ(kinds("LinuxCapacity", "400"), 4) << "its little ones";
  EXPECT_EQ(kinds("FrequencyMaxMHz", "950"), 0) << "cores that turbo a little less";
  EXPECT_EQ(kinds("FrequencyMaxMHz", "600"), 4);
}

TEST(TopologyTest, AnUnreadableDescriptionIsNamedInTheError) {
  try {
    topology_from_synthetic("pack:two");
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("got 'pack:two'"), std::string::npos) << error.what();
  }
}

TEST(TopologyTest, AMaskOutsideTheMachineIsAnError) {
  EXPECT_THROW(topology_from_synthetic("core:2 pu:1", {7}), std::invalid_argument);
}

TEST(TopologyTest, AMissingXmlFileIsNamedInTheError) {
  try {
    topology_from_xml("/nonexistent/machine.xml");
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/machine.xml"), std::string::npos) << error.what();
  }
}

TEST(TopologyTest, AMachineIsReadFromXml) {
  const torchfeed::testing::TempDir directory;
  const std::string path = directory.write("machine.xml", R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0xf" complete_cpuset="0xf" allowed_cpuset="0xf" nodeset="0x1" complete_nodeset="0x1" allowed_nodeset="0x1">
  <object type="NUMANode" os_index="0" cpuset="0xf" complete_cpuset="0xf" nodeset="0x1" complete_nodeset="0x1" local_memory="1073741824"/>
  <object type="Core" os_index="0" cpuset="0x5" complete_cpuset="0x5" nodeset="0x1" complete_nodeset="0x1">
   <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1"/>
   <object type="PU" os_index="2" cpuset="0x4" complete_cpuset="0x4" nodeset="0x1" complete_nodeset="0x1"/>
  </object>
  <object type="Core" os_index="1" cpuset="0xa" complete_cpuset="0xa" nodeset="0x1" complete_nodeset="0x1">
   <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x1" complete_nodeset="0x1"/>
   <object type="PU" os_index="3" cpuset="0x8" complete_cpuset="0x8" nodeset="0x1" complete_nodeset="0x1"/>
  </object>
 </object>
</topology>
)");
  const CpuTopology machine = topology_from_xml(path);
  EXPECT_EQ(machine.physical_cores, 2);
  EXPECT_EQ(machine.logical_cores, 4);
  EXPECT_EQ(first_cpus_of(machine), (std::vector<int>{0, 1}));
  EXPECT_EQ(machine.cores[0].cpus, (std::vector<int>{0, 2}));
  EXPECT_EQ(topology_from_xml(path, {0, 2}).physical_cores, 1);
}

TEST(TopologyTest, CpusAloneCountAsCoresAndSayWhy) {
  const CpuTopology machine = topology_from_cpus({5, 3, 4}, "a test");
  EXPECT_EQ(machine.physical_cores, 3);
  EXPECT_EQ(machine.cpus, (std::vector<int>{3, 4, 5}));
  EXPECT_EQ(machine.origin, "a test");
}

TEST(TopologyTest, ThisMachineLiesInsideTheAffinityMask) {
  const CpuTopology machine = load_topology();
  EXPECT_EQ(machine.cpus, available_cpus());
  EXPECT_GE(machine.physical_cores, 1);
  EXPECT_LE(machine.physical_cores, machine.logical_cores);
  EXPECT_EQ(machine.cores.size(), static_cast<size_t>(machine.physical_cores));
  EXPECT_GE(machine.numa_nodes.size(), 1u);
  EXPECT_GE(machine.packages, 1);
}

TEST_F(TopologyDeathTest, AThreadBoundToOneCpuSeesOneCore) {
  const int last = available_cpus().back();
  if (available_cpus().size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        const bool bound = bind_current_thread({last});
        const CpuTopology machine = load_topology();
        const bool right = machine.physical_cores == 1 && machine.cpus == std::vector<int>{last};
        _exit(bound && right ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(TopologyDeathTest, BindingToACpuThatIsNotThereIsTold) {
  EXPECT_EXIT(_exit(bind_current_thread({100'000}) || bind_current_thread({}) ? 1 : 0), ::testing::ExitedWithCode(0),
              "");
}

TEST_F(TopologyDeathTest, CoresAreCountedThoughOpenMpHasBoundTheMainThreadToOne) {
  const std::string expected = std::to_string(available_cpus().size());
  if (available_cpus().size() < 2) GTEST_SKIP() << "needs two CPUs";
  setenv("OMP_PROC_BIND", "true", 1);
  EXPECT_EXIT(
      {
        std::fprintf(stderr, "bound %d, logical %d;", thread_cpus().size() < available_cpus().size(),
                     load_topology().logical_cores);
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "bound 1, logical " + expected + ";");
}

TEST_F(TopologyDeathTest, PlacesThatNameCpusBeyondTheMachineAreLeftOut) {
  const std::string expected = std::to_string(available_cpus().size());
  setenv("GOMP_CPU_AFFINITY", "0-1023", 1);
  EXPECT_EXIT(
      {
        std::fprintf(stderr, "logical %d;", load_topology().logical_cores);
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "logical " + expected + ";");
}

TEST_F(TopologyDeathTest, HwlocsOwnVariablesDescribeAnotherMachineWhereThatIsAskedFor) {
  setenv("HWLOC_SYNTHETIC", "pack:2 core:4 pu:2", 1);
  EXPECT_EXIT(
      {
        const CpuTopology machine = load_topology(MachineVariables::kReplaceTheMachine);
        std::fprintf(stderr, "%d of %d", machine.physical_cores, machine.logical_cores);
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "8 of 16");
}

TEST_F(TopologyDeathTest, HwlocsOwnVariablesNeverLeadOutOfTheMask) {
  // All of this machine's CPUs and many more, and one alone.
  for (const char* description : {"pack:2 core:1024 pu:1", "core:1 pu:1(indexes=4095)"}) {
    setenv("HWLOC_SYNTHETIC", description, 1);
    EXPECT_EXIT(
        {
          const CpuTopology machine = load_topology();
          std::fprintf(stderr, "%s", machine.origin.c_str());
          const int cpus = static_cast<int>(available_cpus().size());
          _exit(machine.cpus == available_cpus() && machine.physical_cores == cpus && machine.logical_cores == cpus
                    ? 0
                    : 1);
        },
        ::testing::ExitedWithCode(0), "the affinity mask.* HWLOC_XMLFILE or HWLOC_SYNTHETIC");
  }
}

}  // namespace
}  // namespace torchfeed::threading
