#pragma once

#include <cstddef>

namespace torchfeed::threading {

/// Whether share_openmp_team() can be had: OpenBLAS with threads of its own that lets others run its products' parts
/// (Debian 13's 0.3.29 does, Debian 12's 0.3.21 does not), is not let already by the program, and was built for twice
/// its threads; and an OpenMP library. Not in a forked child, where OpenMP's threads are not.
bool can_share_openmp_team();

/// From now on the parts of OpenBLAS's products run on OpenMP's threads, those of ATen's operators and of oneDNN, and
/// not on OpenBLAS's own: with two teams the idle threads of each spin, for milliseconds, on cores that the other's
/// need. `share` false: on its own again. Returns whether it is as wanted; not where the system starts no more threads.
///
/// A product of a thread that has fewer OpenMP threads than the product has parts (a loader's worker thread), or that
/// is in a parallel region already, takes helper threads, one fewer than BLAS has threads, which are started here and
/// sleep in between. One product is computed at a time. LU factorisations still take OpenBLAS's own threads for a part
/// of their work.
///
/// fork() waits for a product that another thread computes, though not for LU. A child's products run on OpenBLAS's own
/// threads, as without this; as then, its first one may hang where another thread of its parent was at one: see
/// SingleThreadedBlasScope for children that hang never.
///
/// OpenBLAS does not guard the start of its threads: where one thread forks while a second one's product begins and a
/// third one's follows, the second may free memory that the third's parts have.
///
/// Any thread, while no product is computed.
bool share_openmp_team(bool share);
bool openmp_team_is_shared();

/// Runs one part of a product, which waits for the others meanwhile: by a number that no other part has at that time,
/// itself, and what OpenBLAS adds.
using RunBlasPart = void (*)(int number, void* part, int argument);

/// What OpenBLAS calls then: runs `parts` parts of `part_bytes` each from `first` on, all at the same time, and returns
/// when all are done. `sync` is always true. Ends the process where helpers are missing, as BLAS has got more threads
/// since, and the system starts none. Any thread.
void run_blas_parts(int sync, RunBlasPart run, int parts, std::size_t part_bytes, void* first, int argument) noexcept;

}  // namespace torchfeed::threading
