#pragma once

#include <torchfeed/plugin/threading/cgroup_limits.h>

#include <filesystem>
#include <optional>

namespace torchfeed::threading {

/// Memory that this process may still take: the machine's (MemAvailable in /proc/meminfo, see proc(5)) or what cgroups
/// leave of it, whichever is less. Empty where neither can be read. `root` as in read_cpu_quota().
std::optional<MemoryRoom> read_free_memory(const std::filesystem::path& root = "/");

}  // namespace torchfeed::threading
