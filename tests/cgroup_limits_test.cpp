#include <gtest/gtest.h>
#include <sys/stat.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/free_memory.h>
#include <torchfeed/plugin/threading/planner.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "support/forked_child.h"
#include "support/temp_dir.h"

namespace torchfeed::threading {
namespace {

namespace fs = std::filesystem;

/// A made-up file tree with /proc/self and mounted cgroups.
class CgroupLimitsTest : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    const fs::path file = root() / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  void mount_v2(const std::string& visible = "/") {
    write("proc/self/mountinfo", "30 23 0:26 " + visible + " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw");
  }
  fs::path root() const { return fs::path(directory_.path()); }

 private:
  torchfeed::testing::TempDir directory_;
};

TEST_F(CgroupLimitsTest, VersionTwoGivesQuotaOverPeriod) {
  mount_v2();
  write("proc/self/cgroup", "0::/job");
  write("sys/fs/cgroup/job/cpu.max", "150000 100000");
  const auto quota = read_cpu_quota(root());
  ASSERT_TRUE(quota);
  EXPECT_DOUBLE_EQ(quota->cpus, 1.5);
  EXPECT_EQ(quota->source, (root() / "sys/fs/cgroup/job/cpu.max").string());
}

TEST_F(CgroupLimitsTest, WhereTheKernelSlowsDownBeforeItEndsAProcessThatIsTheLimit) {
  mount_v2();
  write("proc/self/cgroup", "0::/job");
  write("sys/fs/cgroup/job/memory.current", "1000");
  write("sys/fs/cgroup/job/memory.max", "max");
  write("sys/fs/cgroup/job/memory.high", "4000");
  ASSERT_TRUE(read_memory_room(root()));
  EXPECT_EQ(read_memory_room(root())->bytes, 3000u);
  EXPECT_EQ(read_memory_room(root())->source, (root() / "sys/fs/cgroup/job/memory.high").string());
  write("sys/fs/cgroup/job/memory.max", "3000");
  EXPECT_EQ(read_memory_room(root())->bytes, 2000u);
  write("sys/fs/cgroup/job/memory.high", "max");
  EXPECT_EQ(read_memory_room(root())->bytes, 2000u);
}

TEST_F(CgroupLimitsTest, MaxIsNoLimit) {
  mount_v2();
  write("proc/self/cgroup", "0::/job");
  write("sys/fs/cgroup/job/cpu.max", "max 100000");
  EXPECT_FALSE(read_cpu_quota(root()));
}

TEST_F(CgroupLimitsTest, TheLowestOfNestedLimitsCounts) {
  mount_v2();
  write("proc/self/cgroup", "0::/a/b/c");
  write("sys/fs/cgroup/a/cpu.max", "400000 100000");
  write("sys/fs/cgroup/a/b/cpu.max", "100000 50000");
  write("sys/fs/cgroup/a/b/c/cpu.max", "max 100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 2.0);
}

TEST_F(CgroupLimitsTest, VersionOneReadsTheCpuHierarchy) {
  write("proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct");
  write("proc/self/cgroup", "9:cpuset:/x\n4:cpu,cpuacct:/job\n0::/");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "250000");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 2.5);
}

TEST_F(CgroupLimitsTest, MinusOneIsNoLimitInVersionOne) {
  write("proc/self/mountinfo", "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu");
  write("proc/self/cgroup", "4:cpu:/");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_FALSE(read_cpu_quota(root()));
}

TEST_F(CgroupLimitsTest, AContainersMountShowsItsOwnCgroupAsTheMountPoint) {
  write("proc/self/mountinfo", "33 31 0:30 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu");
  write("proc/self/cgroup", "4:cpu:/docker/abc/inner");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  write("sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "50000");
  write("sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 0.5);
}

TEST_F(CgroupLimitsTest, ACgroupThatTheMountDoesNotShowFallsBackToTheMountPoint) {
  mount_v2("/");
  write("proc/self/cgroup", "0::/../elsewhere");
  write("sys/fs/cgroup/cpu.max", "100000 100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 1.0);
}

TEST_F(CgroupLimitsTest, WhereALeafCannotBeSeenItsAncestorsCount) {
  mount_v2();
  write("proc/self/cgroup", "0::/slice/job/leaf");
  write("sys/fs/cgroup/slice/cpu.max", "300000 100000");
  const auto quota = read_cpu_quota(root());
  ASSERT_TRUE(quota);
  EXPECT_DOUBLE_EQ(quota->cpus, 3);
}

TEST_F(CgroupLimitsTest, WhereBothVersionsSetALimitTheLowerCounts) {
  write("proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct");
  write("proc/self/cgroup", "3:cpu,cpuacct:/old\n0::/new");
  write("sys/fs/cgroup/unified/new/cpu.max", "400000 100000");
  write("sys/fs/cgroup/cpu/old/cpu.cfs_quota_us", "250000");
  write("sys/fs/cgroup/cpu/old/cpu.cfs_period_us", "100000");
  ASSERT_TRUE(read_cpu_quota(root()));
  EXPECT_DOUBLE_EQ(read_cpu_quota(root())->cpus, 2.5);
  write("sys/fs/cgroup/unified/new/cpu.max", "50000 100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root())->cpus, 0.5);
}

TEST_F(CgroupLimitsTest, TextWhereANumberBelongsIsNoLimit) {
  mount_v2();
  write("proc/self/cgroup", "0::/");
  write("sys/fs/cgroup/cpu.max", "lots of it");
  EXPECT_FALSE(read_cpu_quota(root()));
}

TEST_F(CgroupLimitsTest, ATreeWithoutCgroupsHasNoLimit) { EXPECT_FALSE(read_cpu_quota(root())); }

TEST_F(CgroupLimitsTest, ACopyOfTheCgroupFolderAloneIsRead) {
  write("cpu.max", "150000 100000");
  write("memory.max", "3000");
  write("memory.current", "1000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 1.5);
  EXPECT_EQ(read_memory_room(root()).value_or(MemoryRoom{}).bytes, 2000u);
}

TEST_F(CgroupLimitsTest, ACopyOfVersionOnesFoldersAloneIsRead) {
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_DOUBLE_EQ(read_cpu_quota(root()).value_or(CpuQuota{}).cpus, 0.5);
}

TEST_F(CgroupLimitsTest, FreeMemoryIsWhatTheMachineAndTheCgroupsLeave) {
  EXPECT_FALSE(read_free_memory(root()));
  write("proc/meminfo", "MemTotal: 16 kB\nMemAvailable: 8 kB");
  EXPECT_EQ(read_free_memory(root()).value_or(MemoryRoom{}).bytes, 8192u);
  EXPECT_EQ(read_free_memory(root())->source, (root() / "proc/meminfo").string());
  mount_v2();
  write("proc/self/cgroup", "0::/");
  write("sys/fs/cgroup/memory.max", "5000");
  write("sys/fs/cgroup/memory.current", "1000");
  EXPECT_EQ(read_free_memory(root()).value_or(MemoryRoom{}).bytes, 4000u);
  write("sys/fs/cgroup/memory.max", "500000");
  EXPECT_EQ(read_free_memory(root()).value_or(MemoryRoom{}).bytes, 8192u);
}

/// A cgroup of this machine's with a CPU quota, removed at the end of the scope. Its path is empty where this user may
/// not make one.
class RealCgroup {
 public:
  explicit RealCgroup(int percent) {
    for (const auto& [top, v2] : {std::pair("/sys/fs/cgroup/cpu", false),
                                  std::pair("/sys/fs/cgroup/cpu,cpuacct", false), std::pair("/sys/fs/cgroup", true)}) {
      const fs::path path = fs::path(top) / ("torchfeed-test-" + std::to_string(getpid()));
      if (::mkdir(path.c_str(), 0755) != 0) continue;
      path_ = path;
      const std::string quota = std::to_string(percent * 1000);
      if (v2 ? put("cpu.max", quota + " 100000") : put("cpu.cfs_period_us", "100000") && put("cpu.cfs_quota_us", quota))
        return;
      ::rmdir(path.c_str());
      path_.clear();
    }
  }
  ~RealCgroup() {
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  RealCgroup(const RealCgroup&) = delete;
  RealCgroup& operator=(const RealCgroup&) = delete;

  const fs::path& path() const { return path_; }
  bool put(const char* file, const std::string& text) const {
    std::error_code ignored;
    if (!fs::exists(path_ / file, ignored)) return false;
    std::ofstream out(path_ / file);
    out << text << std::endl;
    return static_cast<bool>(out);
  }

 private:
  fs::path path_;
};

TEST(RealCgroupTest, AProcessUnderARealQuotaSeesItAndPlansForIt) {
  const RealCgroup cgroup(150);
  if (cgroup.path().empty()) GTEST_SKIP() << "needs the right to make a cgroup with a CPU quota below /sys/fs/cgroup";
  const std::string said = torchfeed::testing::said_in_a_child([&]() -> std::string {
    if (!cgroup.put("cgroup.procs", std::to_string(getpid()))) return "cannot enter the cgroup";
    const auto quota = read_cpu_quota();
    if (!quota) return "sees no quota";
    PlanInputs inputs;
    inputs.topology = topology_from_synthetic("core:8 pu:1");
    inputs.quota = quota;
    return std::to_string(quota->cpus) + " from " + quota->source + ", intra_op " +
           std::to_string(plan_threads(inputs).intra_op);
  });
  const std::string file = fs::exists(cgroup.path() / "cpu.max") ? "cpu.max" : "cpu.cfs_quota_us";
  EXPECT_EQ(said, "1.500000 from " + (cgroup.path() / file).string() + ", intra_op 2");
}

TEST_F(CgroupLimitsTest, RoomIsTheLeastThatALimitOfTheTreeLeaves) {
  mount_v2();
  write("proc/self/cgroup", "0::/a/b");
  write("sys/fs/cgroup/a/memory.max", "1000000");
  write("sys/fs/cgroup/a/memory.current", "900000");
  write("sys/fs/cgroup/a/memory.stat", "anon 500000\ninactive_file 300000");
  write("sys/fs/cgroup/a/b/memory.max", "max");
  write("sys/fs/cgroup/a/b/memory.current", "800000");
  const auto room = read_memory_room(root());
  ASSERT_TRUE(room);
  EXPECT_EQ(room->bytes, 400000U);
  EXPECT_EQ(room->source, (root() / "sys/fs/cgroup/a/memory.max").string());
}

TEST_F(CgroupLimitsTest, ReadsVersionOnesMemoryHierarchy) {
  write("proc/self/mountinfo", "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory");
  write("proc/self/cgroup", "4:memory:/job");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "7000");
  write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "8000");
  EXPECT_EQ(read_memory_room(root()).value_or(MemoryRoom{1, ""}).bytes, 0U) << "over the limit is no room";
}

TEST_F(CgroupLimitsTest, ATreeWithoutMemoryLimitsHasNoBound) { EXPECT_FALSE(read_memory_room(root())); }

}  // namespace
}  // namespace torchfeed::threading
