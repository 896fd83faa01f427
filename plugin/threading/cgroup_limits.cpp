#include <torchfeed/plugin/threading/cgroup_limits.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

namespace torchfeed::threading {
namespace {

namespace fs = std::filesystem;

/// One mounted hierarchy that can hold limits.
struct Mount {
  bool v2 = false;
  /// The cgroup that is visible as the mount point.
  std::string cgroup;
  std::string point;
};

bool lists(const std::string& commas, const std::string& word) {
  return ("," + commas + ",").find("," + word + ",") != std::string::npos;
}

/// Where `root` has no /proc: a copy of /sys/fs/cgroup alone, v2's files at its top or a folder for each v1 controller.
std::vector<Mount> guess_mounts(const fs::path& root, const std::string& controller) {
  std::vector<Mount> mounts;
  std::error_code ignored;
  for (const std::string point : {"/sys/fs/cgroup", "/"}) {
    const fs::path top = root / fs::path(point).relative_path();
    for (const char* file : {"cgroup.controllers", "cpu.max", "memory.max"})
      if (mounts.empty() && fs::exists(top / file, ignored)) mounts.push_back({true, "/", point});
    for (const std::string& folder : {controller, controller + ",cpuacct"})
      if (fs::is_directory(top / folder, ignored)) mounts.push_back({false, "/", (fs::path(point) / folder).string()});
    if (!mounts.empty()) break;
  }
  return mounts;
}

/// Lines of mountinfo: id parent major:minor root point options [fields...] - type source super-options.
std::vector<Mount> read_mounts(const fs::path& root, const std::string& controller) {
  std::vector<Mount> mounts;
  std::ifstream file(root / "proc/self/mountinfo");
  if (!file) return guess_mounts(root, controller);
  for (std::string line; std::getline(file, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line.substr(0, dash)), after(line.substr(dash + 3));
    std::string skip, type, super;
    Mount mount;
    before >> skip >> skip >> skip >> mount.cgroup >> mount.point;
    after >> type >> skip >> super;
    mount.v2 = type == "cgroup2";
    if (mount.v2 || (type == "cgroup" && lists(super, controller))) mounts.push_back(mount);
  }
  return mounts;
}

/// The process's cgroup in v2's hierarchy or in v1's that has the controller; lines: id:controllers:path.
std::optional<std::string> own_cgroup(const fs::path& root, bool v2, const std::string& controller) {
  std::ifstream file(root / "proc/self/cgroup");
  if (!file) return "/";
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? controllers.empty() : lists(controllers, controller)) return line.substr(second + 1);
  }
  return std::nullopt;
}

std::optional<double> read_number(const fs::path& path) {
  std::ifstream file(path);
  double value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

/// The quota that one directory sets, in CPUs; empty without one ("max" in v2, -1 in v1).
std::optional<CpuQuota> read_quota(const fs::path& directory, bool v2) {
  double quota = 0, period = 0;
  const fs::path source = directory / (v2 ? "cpu.max" : "cpu.cfs_quota_us");
  if (v2) {
    std::ifstream file(source);
    if (!(file >> quota >> period)) return std::nullopt;
  } else {
    quota = read_number(source).value_or(-1);
    period = read_number(directory / "cpu.cfs_period_us").value_or(0);
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return CpuQuota{quota / period, source.string()};
}

/// `path` as seen from `base`: the empty path where it is `base` itself or lies outside (another namespace's view).
fs::path below(const std::string& path, const std::string& base) {
  const fs::path relative = fs::path(path).lexically_relative(base);
  if (relative.empty() || relative == "." || *relative.begin() == "..") return {};
  return relative;
}

/// Calls visit(directory, v2) for this process's cgroup and each of its ancestors that can be seen.
template <typename Visit>
void visit_cgroups(const fs::path& root, const std::string& controller, Visit visit) {
  for (const Mount& mount : read_mounts(root, controller)) {
    const auto cgroup = own_cgroup(root, mount.v2, controller);
    if (!cgroup) continue;
    const fs::path top = root / fs::path(mount.point).relative_path();
    std::error_code ignored;
    fs::path relative = below(*cgroup, mount.cgroup);
    // What cannot be seen leaves those above it.
    while (!relative.empty() && !fs::is_directory(top / relative, ignored)) relative = relative.parent_path();
    for (;; relative = relative.parent_path()) {
      visit(relative.empty() ? top : top / relative, mount.v2);
      if (relative.empty()) break;
    }
  }
}

/// A number of bytes; empty for "max" and where there is no such file.
std::optional<std::uint64_t> read_bytes(const fs::path& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

/// Bytes of file cache that the kernel drops first, from memory.stat.
std::uint64_t droppable_cache(const fs::path& directory, bool v2) {
  const std::string wanted = v2 ? "inactive_file" : "total_inactive_file";
  std::ifstream file(directory / "memory.stat");
  std::uint64_t value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == wanted) return value;
  }
  return 0;
}

std::optional<MemoryRoom> read_room(const fs::path& directory, bool v2) {
  // v1 writes "no limit" as the largest multiple of a page.
  constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 62;
  fs::path source = directory / (v2 ? "memory.max" : "memory.limit_in_bytes");
  auto limit = read_bytes(source);
  // Above it the kernel slows the process down and takes its memory back, long before it ends it.
  if (const auto high = v2 ? read_bytes(directory / "memory.high") : std::nullopt; high && (!limit || *high < *limit)) {
    limit = high;
    source = directory / "memory.high";
  }
  const auto usage = read_bytes(directory / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || *limit >= kNoLimit || !usage) return std::nullopt;
  const std::uint64_t used = *usage - std::min(*usage, droppable_cache(directory, v2));
  return MemoryRoom{*limit - std::min(*limit, used), source.string()};
}

}  // namespace

std::optional<CpuQuota> read_cpu_quota(const fs::path& root) {
  std::optional<CpuQuota> lowest;
  visit_cgroups(root, "cpu", [&lowest](const fs::path& directory, bool v2) {
    const auto quota = read_quota(directory, v2);
    if (quota && (!lowest || quota->cpus < lowest->cpus)) lowest = quota;
  });
  return lowest;
}

std::optional<MemoryRoom> read_memory_room(const fs::path& root) {
  std::optional<MemoryRoom> least;
  visit_cgroups(root, "memory", [&least](const fs::path& directory, bool v2) {
    const auto room = read_room(directory, v2);
    if (room && (!least || room->bytes < least->bytes)) least = room;
  });
  return least;
}

}  // namespace torchfeed::threading
