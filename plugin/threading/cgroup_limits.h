#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace torchfeed::threading {

/// A limit on CPU time, as containers set it.
struct CpuQuota {
  /// CPUs' worth of time, e.g. 1.5.
  double cpus = 0;
  /// The file that sets it.
  std::string source;
};

/// The lowest CPU quota over this process's cgroup and every ancestor that it can see, v1 (cpu.cfs_quota_us) and v2
/// (cpu.max); empty without a limit, and where no cgroup can be read. hwloc reads cpusets only, never this.
/// `root` is put before /proc and before every mount point, so that a made-up tree can be read. A tree without
/// /proc/self/mountinfo is taken as /sys/fs/cgroup, or holds it; without /proc/self/cgroup the process is at its top.
/// Throws nothing but std::bad_alloc.
std::optional<CpuQuota> read_cpu_quota(const std::filesystem::path& root = "/");

/// Memory that this process may still take before a limit on it or on an ancestor is met.
struct MemoryRoom {
  std::uint64_t bytes = 0;
  /// The file that sets the limit.
  std::string source;
};

/// The least room over this process's cgroup and every ancestor that it can see, v1 (memory.limit_in_bytes) and v2
/// (the lower of memory.high and memory.max): limit less usage, where file cache that the kernel can drop counts as
/// free. Empty without a limit. `root` as above.
std::optional<MemoryRoom> read_memory_room(const std::filesystem::path& root = "/");

}  // namespace torchfeed::threading
