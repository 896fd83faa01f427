#pragma once

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
/// `root` is put before /proc and before every mount point, so that a made-up tree can be read. Throws nothing but
/// std::bad_alloc.
std::optional<CpuQuota> read_cpu_quota(const std::filesystem::path& root = "/");

}  // namespace torchfeed::threading
