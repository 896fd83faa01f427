#pragma once

#include <vector>

namespace torchfeed::threading {

/// The CPUs that the calling thread may run on, in ascending order: Linux's affinity mask, of any width.
/// Errors: std::system_error.
std::vector<int> thread_cpus();

/// The CPUs that this process was given, in ascending order, seen through OpenMP's binding.
///
/// With OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY libgomp pins the main thread to its first place while it is
/// loaded, before any constructor of a library that uses it can run, so the mask read later is one core. libgomp keeps
/// the mask it found as its list of places. Hence: where the calling thread's mask is exactly one of OpenMP's places,
/// the answer is the union of all places (which is also where OpenMP's threads run); any other mask is the user's own
/// doing and is the answer. Errors: std::system_error.
std::vector<int> available_cpus();

/// Lets the calling thread, and what it starts from now on, run on `cpus` and nowhere else, and reads the mask back.
/// A forked worker calls it with available_cpus() of its parent, as it inherits the core that OpenMP pinned it to.
/// Returns false where the kernel grants another mask (CPUs that are offline or outside the cgroup's cpuset).
bool bind_current_thread(const std::vector<int>& cpus);

}  // namespace torchfeed::threading
