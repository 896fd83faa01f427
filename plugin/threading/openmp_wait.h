#pragma once

#include <string>

namespace torchfeed::threading {

/// What became of shorten_openmp_spinning().
struct OpenMpSpinning {
  bool shortened = false;
  /// Threads that sleep for it until the process ends, or restore_openmp_spinning().
  int parked_threads = 0;
  /// Why, as a phrase.
  std::string reason;
};

/// Makes libgomp's idle threads sleep after some microseconds instead of spinning for milliseconds.
///
/// After each parallel region libgomp's threads spin on their cores, by default about 300,000 turns. On cores that are
/// shared, with OpenBLAS's own threads or with loader workers, they take the time of those who have work: a product of
/// matrices runs at half its speed, and a region whose partner waits for a core takes up to 25 times as long.
/// OMP_WAIT_POLICY and GOMP_SPINCOUNT are read only while libgomp is loaded. But libgomp spins only 100 turns when it
/// manages more threads than there are CPUs, so this opens one region that raises the number above the CPUs, from a
/// thread of its own that then sleeps with its team (all signals blocked, some kilobytes each).
///
/// `team` is the number of threads of the trainer's own regions. Does nothing with `team` < 2, with an OpenMP other
/// than libgomp, and where the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT. Calling it again adds what is missing.
/// May be called by one thread at a time. Source: libgomp's manual, GOMP_SPINCOUNT.
OpenMpSpinning shorten_openmp_spinning(int team);

/// Threads that sleep for it now.
int parked_openmp_threads();

/// Ends the parked threads but for `keep` of them, the first, and waits for that: libgomp counts them no more, and
/// spins as before. `keep` is what an earlier call told as parked_threads. Does nothing in a forked child, which has no
/// parked threads. May be called by one thread at a time.
void restore_openmp_spinning(int keep = 0);

}  // namespace torchfeed::threading
