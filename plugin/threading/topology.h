#pragma once

#include <string>
#include <vector>

namespace torchfeed::threading {

/// The part of a machine that a process may use. Counts are cores and CPUs (hardware threads) inside its mask.
struct CpuTopology {
  int physical_cores = 1;
  int logical_cores = 1;
  /// The operating system's CPU numbers inside the mask, ascending.
  std::vector<int> cpus;
  /// One CPU of each physical core, ascending: where threads go that should not share a core.
  std::vector<int> core_cpus;
  /// Where this comes from, as a phrase: "hwloc", or why hwloc could not tell.
  std::string origin;

  /// True where some core has more than one CPU inside the mask.
  bool smt() const { return logical_cores > physical_cores; }
};

/// This machine inside available_cpus(). HWLOC_XMLFILE and HWLOC_SYNTHETIC replace the machine as in hwloc's own tools;
/// this process's mask says nothing about such a machine and is left out. Where hwloc fails, every CPU of the mask
/// counts as a core, and `origin` says so. Never throws but std::bad_alloc and what available_cpus() throws.
CpuTopology load_topology();

/// A machine described in hwloc's synthetic notation, e.g. "pack:2 core:8 pu:2", inside `mask` (empty: all of it).
/// Errors: std::invalid_argument names the description, or the mask where it has no CPU of the machine.
CpuTopology topology_from_synthetic(const std::string& description, const std::vector<int>& mask = {});

/// A machine saved with `lstopo machine.xml`, inside `mask` (empty: all of it). Errors: std::invalid_argument.
CpuTopology topology_from_xml(const std::string& path, const std::vector<int>& mask = {});

/// A machine of which nothing but its CPUs is known: each counts as a core. `reason` goes to `origin`.
CpuTopology topology_from_cpus(const std::vector<int>& cpus, const std::string& reason);

}  // namespace torchfeed::threading
