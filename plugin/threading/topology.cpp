#include <hwloc.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/topology.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace torchfeed::threading {
namespace {

struct TopologyDestroy {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, TopologyDestroy>;

Topology new_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return nullptr;
  Topology topology(raw);
  // Devices take most of the time to read and do not matter here.
  hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_NONE);
  return topology;
}

/// One kind of cores of a hybrid machine, as hwloc tells it.
struct Kind {
  std::set<int> cpus;
  /// hwloc's rank, the fastest kind has the highest; -1 where it could not rank them.
  int efficiency = -1;
  std::string core_type;
  double capacity = 0;
  double frequency = 0;
};

std::set<int> numbers(hwloc_const_bitmap_t bitmap) {
  std::set<int> result;
  for (int cpu = hwloc_bitmap_first(bitmap); cpu >= 0; cpu = hwloc_bitmap_next(bitmap, cpu)) result.insert(cpu);
  return result;
}

Kind read_kind(hwloc_topology_t topology, unsigned index) {
  Kind kind;
  const std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)> cpus(hwloc_bitmap_alloc(), &hwloc_bitmap_free);
  unsigned infos = 0;
  hwloc_info_s* info = nullptr;
  if (!cpus || hwloc_cpukinds_get_info(topology, index, cpus.get(), &kind.efficiency, &infos, &info, 0) != 0)
    return kind;
  kind.cpus = numbers(cpus.get());
  for (unsigned i = 0; i < infos; ++i) {
    const std::string name = info[i].name;
    if (name == "CoreType") kind.core_type = info[i].value;
    if (name == "LinuxCapacity") kind.capacity = std::atof(info[i].value);
    if (name == "FrequencyMaxMHz") kind.frequency = std::atof(info[i].value);
  }
  return kind;
}

/// Kinds also tell apart cores that differ little: some of Intel's P cores turbo higher than others, and Arm has two
/// sizes of big ones. Cores that have most of the best ones' speed compute beside them.
bool is_efficiency_kind(const Kind& kind, const Kind& best) {
  constexpr double kNearlyAsFast = 0.8;
  if (kind.core_type != best.core_type && kind.core_type == "IntelAtom") return true;
  if (kind.capacity > 0 && best.capacity > 0) return kind.capacity < kNearlyAsFast * best.capacity;
  if (kind.frequency > 0 && best.frequency > 0) return kind.frequency < kNearlyAsFast * best.frequency;
  return kind.efficiency < best.efficiency;
}

/// The CPUs of the machine's efficiency cores; none where all cores are alike or hwloc cannot tell.
std::set<int> efficiency_cpus(hwloc_topology_t topology) {
  const int count = hwloc_cpukinds_get_nr(topology, 0);
  std::vector<Kind> kinds;
  for (int i = 0; i < count; ++i) kinds.push_back(read_kind(topology, static_cast<unsigned>(i)));
  std::set<int> result;
  if (kinds.size() < 2) return result;
  const Kind& best = *std::max_element(kinds.begin(), kinds.end(), [](const Kind& a, const Kind& b) {
    return std::pair(a.efficiency, a.capacity) < std::pair(b.efficiency, b.capacity);
  });
  for (const Kind& kind : kinds) {
    const bool ranked = kind.efficiency >= 0 || kind.capacity > 0;
    if (ranked && is_efficiency_kind(kind, best)) result.insert(kind.cpus.begin(), kind.cpus.end());
  }
  return result;
}

/// Notes the sizes of the caches above a CPU, and which last-level cache that is.
void read_caches(hwloc_obj_t pu, CpuTopology& topology, CpuCore& core) {
  std::uint64_t last = 0;
  for (hwloc_obj_t above = pu->parent; above != nullptr; above = above->parent) {
    if (!hwloc_obj_type_is_dcache(above->type)) continue;
    last = above->attr->cache.size;
    core.last_level_cache = static_cast<int>(above->logical_index);
    if (above->type == HWLOC_OBJ_L2CACHE) topology.l2_bytes = std::max(topology.l2_bytes, last);
  }
  topology.last_level_bytes = std::max(topology.last_level_bytes, last);
}

CpuCore read_core(hwloc_topology_t topology, hwloc_obj_t pu, const std::set<int>& efficiency, CpuTopology& result) {
  CpuCore core;
  if (efficiency.count(static_cast<int>(pu->os_index)) > 0) core.kind = CoreKind::kEfficiency;
  if (const hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, pu))
    core.package = core.last_level_cache = static_cast<int>(package->logical_index);
  if (pu->nodeset != nullptr) core.numa_node = std::max(0, hwloc_bitmap_first(pu->nodeset));
  read_caches(pu, result, core);
  return core;
}

/// Sorts, and derives what follows from the cores.
void finish(hwloc_topology_t topology, CpuTopology& result) {
  std::sort(result.cpus.begin(), result.cpus.end());
  for (CpuCore& core : result.cores) std::sort(core.cpus.begin(), core.cpus.end());
  std::sort(result.cores.begin(), result.cores.end(),
            [](const CpuCore& a, const CpuCore& b) { return a.cpus.front() < b.cpus.front(); });
  result.physical_cores = static_cast<int>(result.cores.size());
  result.logical_cores = static_cast<int>(result.cpus.size());
  std::set<int> packages, nodes;
  for (const CpuCore& core : result.cores) {
    packages.insert(core.package);
    nodes.insert(core.numa_node);
  }
  result.packages = static_cast<int>(packages.size());
  for (const int number : nodes) {
    const hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(topology, static_cast<unsigned>(number));
    result.numa_nodes.push_back({number, node ? static_cast<std::uint64_t>(node->attr->numanode.local_memory) : 0});
  }
}

/// The cores that have a CPU inside `mask` (empty: no mask). A CPU without a core above it, which some virtual machines
/// show, is a core of its own.
CpuTopology read_cores(hwloc_topology_t topology, const std::vector<int>& mask) {
  CpuTopology result;
  result.origin = "hwloc";
  const std::set<int> efficiency = efficiency_cpus(topology);
  std::map<hwloc_obj_t, size_t> seen;
  for (hwloc_obj_t pu = nullptr; (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != nullptr;) {
    const int cpu = static_cast<int>(pu->os_index);
    if (!mask.empty() && std::find(mask.begin(), mask.end(), cpu) == mask.end()) continue;
    result.cpus.push_back(cpu);
    const hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    const auto [place, is_new] = seen.emplace(core ? core : pu, result.cores.size());
    if (is_new) result.cores.push_back(read_core(topology, pu, efficiency, result));
    result.cores[place->second].cpus.push_back(cpu);
  }
  finish(topology, result);
  return result;
}

CpuTopology read_described(Topology topology, const std::string& what, const std::vector<int>& mask) {
  if (hwloc_topology_load(topology.get()) != 0)
    throw std::invalid_argument("expected a machine that hwloc can load, got " + what);
  CpuTopology result = read_cores(topology.get(), mask);
  if (result.cpus.empty())
    throw std::invalid_argument("expected a mask with at least one CPU of " + what + ", got none");
  result.origin = what;
  return result;
}

}  // namespace

int CpuTopology::count(CoreKind kind) const {
  return static_cast<int>(
      std::count_if(cores.begin(), cores.end(), [kind](const CpuCore& core) { return core.kind == kind; }));
}

CpuTopology topology_from_cpus(const std::vector<int>& cpus, const std::string& reason) {
  CpuTopology result;
  result.cpus = cpus;
  std::sort(result.cpus.begin(), result.cpus.end());
  for (const int cpu : result.cpus) result.cores.push_back({{cpu}, CoreKind::kPerformance, 0, 0, 0});
  result.numa_nodes.push_back({});
  result.physical_cores = result.logical_cores = std::max<int>(1, static_cast<int>(cpus.size()));
  result.origin = reason;
  return result;
}

CpuTopology load_topology(MachineVariables variables) {
  const std::vector<int> mask = available_cpus();
  const Topology topology = new_topology();
  if (!topology || hwloc_topology_load(topology.get()) != 0)
    return topology_from_cpus(mask, "the affinity mask alone, as hwloc could not read the machine (" +
                                        std::generic_category().message(errno) + ")");
  const bool described = !hwloc_topology_is_thissystem(topology.get());
  const std::string name = "a machine described by HWLOC_XMLFILE or HWLOC_SYNTHETIC";
  if (described && variables == MachineVariables::kReplaceTheMachine) {
    CpuTopology other = read_cores(topology.get(), {});
    other.origin = "hwloc, " + name;
    if (!other.cpus.empty()) return other;
  }
  CpuTopology result = read_cores(topology.get(), mask);
  if (described && result.cpus != mask)
    return topology_from_cpus(mask, "the affinity mask alone, as hwloc reads " + name + ", which has not all its CPUs");
  if (described) result.origin = "the affinity mask, and hwloc, which reads " + name;
  if (result.cpus.empty()) return topology_from_cpus(mask, "the affinity mask alone, as hwloc knows none of its CPUs");
  return result;
}

CpuTopology topology_from_synthetic(const std::string& description, const std::vector<int>& mask) {
  Topology topology = new_topology();
  const std::string what = "the synthetic machine '" + description + "'";
  if (!topology || hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0)
    throw std::invalid_argument("expected hwloc's synthetic notation as in 'pack:2 core:8 pu:2', got '" + description +
                                "'");
  return read_described(std::move(topology), what, mask);
}

CpuTopology topology_from_xml(const std::string& path, const std::vector<int>& mask) {
  Topology topology = new_topology();
  const std::string what = "the machine in '" + path + "'";
  if (!std::ifstream(path)) throw std::invalid_argument("expected a readable XML file of hwloc, got '" + path + "'");
  if (!topology || hwloc_topology_set_xml(topology.get(), path.c_str()) != 0)
    throw std::invalid_argument("expected a machine that hwloc can load, got " + what);
  return read_described(std::move(topology), what, mask);
}

}  // namespace torchfeed::threading
