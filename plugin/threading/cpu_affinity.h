#pragma once

#include <sys/types.h>

#include <vector>

namespace torchfeed::threading {

/// The CPUs that a thread (by its kernel id, 0: the calling one) may run on, in ascending order: Linux's affinity mask,
/// of any width. Errors: std::system_error.
std::vector<int> thread_cpus(pid_t thread = 0);

/// The CPUs that this process was given, in ascending order, seen through OpenMP's binding and through a
/// PinnedProcess's.
///
/// With OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY libgomp pins the main thread to its first place while it is
/// loaded, before any constructor of a library that uses it can run, so the mask read later is one core. libgomp keeps
/// the mask it found as its list of places. Hence: where the calling thread's mask is exactly one of OpenMP's places,
/// the answer is the union of all places (which is also where OpenMP's threads run); any other mask is the user's own
/// doing and is the answer. Errors: std::system_error.
std::vector<int> available_cpus();

/// Lets the calling thread, and what it starts from now on, run on `cpus` and nowhere else, and reads the mask back.
/// A forked worker calls it with available_cpus() of its parent, as it inherits the core that OpenMP pinned it to.
/// Returns false, with the mask as it was, where the kernel grants another one (CPUs that are offline or outside the
/// cgroup's cpuset). Errors: std::system_error where the mask cannot be read.
bool bind_current_thread(const std::vector<int>& cpus);

/// Has the calling thread run on `cpu` for now: it may run on no other for a moment, and then where it might before.
/// Without effect where it may not run there.
void move_current_thread(int cpu);

/// The same as bind_current_thread() for another thread of this process, by its kernel id.
bool bind_thread(pid_t thread, const std::vector<int>& cpus);

/// Binds this process's threads to the trainer's CPUs until the end of the scope: each that has the calling thread's
/// mask, so that OpenMP's and BLAS's pools come along, and threads that somebody bound on purpose stay where they are.
/// Threads that start later inherit the mask of those that start them. Made and destroyed by the same thread, the last
/// made first. A forked child gets a copy that undoes nothing.
class PinnedProcess {
 public:
  /// Errors: std::system_error.
  explicit PinnedProcess(const std::vector<int>& cpus);
  ~PinnedProcess();
  PinnedProcess(const PinnedProcess&) = delete;
  PinnedProcess& operator=(const PinnedProcess&) = delete;

  /// Threads whose mask was read back as asked, and those that the kernel gave another.
  int bound() const { return static_cast<int>(bound_.size()); }
  int refused() const { return refused_; }
  /// Puts the masks back; the number of threads that the kernel did not give theirs. The destructor does it else.
  int restore();

 private:
  pid_t owner_;
  std::vector<int> cpus_;
  std::vector<int> before_;
  std::vector<pid_t> bound_;
  int refused_ = 0;
};

}  // namespace torchfeed::threading
