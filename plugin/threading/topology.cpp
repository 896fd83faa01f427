#include <hwloc.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/topology.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <stdexcept>
#include <system_error>

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

/// Counts the cores that have a CPU inside `mask` (empty: no mask). A CPU without a core above it, which some virtual
/// machines show, is a core of its own.
CpuTopology read_cores(hwloc_topology_t topology, const std::vector<int>& mask) {
  CpuTopology result;
  result.origin = "hwloc";
  std::set<hwloc_obj_t> seen;
  for (hwloc_obj_t pu = nullptr; (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != nullptr;) {
    const int cpu = static_cast<int>(pu->os_index);
    if (!mask.empty() && std::find(mask.begin(), mask.end(), cpu) == mask.end()) continue;
    result.cpus.push_back(cpu);
    const hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    if (seen.insert(core ? core : pu).second) result.core_cpus.push_back(cpu);
  }
  std::sort(result.cpus.begin(), result.cpus.end());
  std::sort(result.core_cpus.begin(), result.core_cpus.end());
  result.physical_cores = static_cast<int>(result.core_cpus.size());
  result.logical_cores = static_cast<int>(result.cpus.size());
  return result;
}

CpuTopology read_described(Topology topology, const std::string& what, const std::vector<int>& mask) {
  if (hwloc_topology_load(topology.get()) != 0)
    throw std::invalid_argument("topology: expected a machine that hwloc can load, got " + what);
  CpuTopology result = read_cores(topology.get(), mask);
  if (result.cpus.empty())
    throw std::invalid_argument("topology: expected a mask with at least one CPU of " + what + ", got none");
  result.origin = what;
  return result;
}

}  // namespace

CpuTopology topology_from_cpus(const std::vector<int>& cpus, const std::string& reason) {
  CpuTopology result;
  result.cpus = cpus;
  std::sort(result.cpus.begin(), result.cpus.end());
  result.core_cpus = result.cpus;
  result.physical_cores = result.logical_cores = std::max<int>(1, static_cast<int>(cpus.size()));
  result.origin = reason;
  return result;
}

CpuTopology load_topology() {
  const std::vector<int> mask = available_cpus();
  const Topology topology = new_topology();
  if (!topology || hwloc_topology_load(topology.get()) != 0)
    return topology_from_cpus(mask, "the affinity mask alone, as hwloc could not read the machine (" +
                                        std::generic_category().message(errno) + ")");
  if (!hwloc_topology_is_thissystem(topology.get())) {
    CpuTopology other = read_cores(topology.get(), {});
    other.origin = "hwloc, a machine described by HWLOC_XMLFILE or HWLOC_SYNTHETIC";
    if (!other.cpus.empty()) return other;
  }
  CpuTopology result = read_cores(topology.get(), mask);
  if (result.cpus.empty()) return topology_from_cpus(mask, "the affinity mask alone, as hwloc knows none of its CPUs");
  return result;
}

CpuTopology topology_from_synthetic(const std::string& description, const std::vector<int>& mask) {
  Topology topology = new_topology();
  const std::string what = "the synthetic machine '" + description + "'";
  if (!topology || hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0)
    throw std::invalid_argument("topology: expected hwloc's synthetic notation as in 'pack:2 core:8 pu:2', got '" +
                                description + "'");
  return read_described(std::move(topology), what, mask);
}

CpuTopology topology_from_xml(const std::string& path, const std::vector<int>& mask) {
  Topology topology = new_topology();
  const std::string what = "the machine in '" + path + "'";
  if (!topology || hwloc_topology_set_xml(topology.get(), path.c_str()) != 0)
    throw std::invalid_argument("topology: expected a readable XML file of hwloc, got '" + path + "'");
  return read_described(std::move(topology), what, mask);
}

}  // namespace torchfeed::threading
