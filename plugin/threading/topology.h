#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed::threading {

/// What a core is beside the other cores of its machine.
enum class CoreKind {
  /// The fast cores of a hybrid machine, and every core of a machine whose cores are alike.
  kPerformance,
  /// Cores built to save power: Intel's E cores, Arm's little ones.
  kEfficiency,
};

/// A physical core with at least one CPU inside the mask.
struct CpuCore {
  /// Its CPUs (hardware threads) inside the mask, by the operating system's numbers, ascending.
  std::vector<int> cpus;
  CoreKind kind = CoreKind::kPerformance;
  /// Which socket, NUMA node and last-level cache it belongs to. Sockets and caches are numbered from 0 in hwloc's
  /// order, nodes as the operating system does.
  int package = 0;
  int numa_node = 0;
  int last_level_cache = 0;
};

/// A NUMA node that has a core inside the mask.
struct NumaNode {
  int number = 0;
  /// 0 where hwloc does not know.
  std::uint64_t memory_bytes = 0;
};

/// The part of a machine that a process may use. Counts are cores and CPUs (hardware threads) inside its mask.
struct CpuTopology {
  int physical_cores = 1;
  int logical_cores = 1;
  /// The operating system's CPU numbers inside the mask, ascending.
  std::vector<int> cpus;
  /// By their first CPU, ascending.
  std::vector<CpuCore> cores;
  /// By number, ascending; at least one where there is a core.
  std::vector<NumaNode> numa_nodes;
  /// Sockets that have a core inside the mask.
  int packages = 1;
  /// The size of one level-2 and of one last-level cache, the largest of each; 0 where hwloc does not know.
  std::uint64_t l2_bytes = 0;
  std::uint64_t last_level_bytes = 0;
  /// Where this comes from, as a phrase: "hwloc", or why hwloc could not tell.
  std::string origin;

  /// True where some core has more than one CPU inside the mask.
  bool smt() const { return logical_cores > physical_cores; }
  int count(CoreKind kind) const;
};

/// What HWLOC_XMLFILE and HWLOC_SYNTHETIC, which hwloc follows, count for.
enum class MachineVariables {
  /// Sites export a file with the machine's own description, as that is read faster: it is believed in how the CPUs of
  /// this process's mask hang together, and only where it has them all. What is planned stays inside the mask.
  kDescribeThisMachine,
  /// Another machine is looked at, as in hwloc's own tools; this process's mask says nothing about it and is left out.
  kReplaceTheMachine,
};

/// This machine inside available_cpus(). Where hwloc fails, every CPU of the mask counts as a core, and `origin` says
/// so. Never throws but std::bad_alloc and what available_cpus() throws.
CpuTopology load_topology(MachineVariables variables = MachineVariables::kDescribeThisMachine);

/// A machine described in hwloc's synthetic notation, e.g. "pack:2 core:8 pu:2", inside `mask` (empty: all of it).
/// Errors: std::invalid_argument names the description, or the mask where it has no CPU of the machine.
CpuTopology topology_from_synthetic(const std::string& description, const std::vector<int>& mask = {});

/// A machine saved with `lstopo machine.xml`, inside `mask` (empty: all of it). Errors: std::invalid_argument.
CpuTopology topology_from_xml(const std::string& path, const std::vector<int>& mask = {});

/// A machine of which nothing but its CPUs is known: each counts as a core. `reason` goes to `origin`.
CpuTopology topology_from_cpus(const std::vector<int>& cpus, const std::string& reason);

}  // namespace torchfeed::threading
