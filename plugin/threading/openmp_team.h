#pragma once

#include <functional>

namespace torchfeed::threading {

/// Calls `body` once in each thread of a team of OpenMP's, `threads` in all: the calling thread, and those that ATen's
/// operators will run on beside it, which are started where they are not there yet. `body` must not throw.
/// Returns how many took part: 1 without an OpenMP library, or where its limits allow no more.
int run_in_openmp_team(int threads, const std::function<void()>& body);

/// libgomp's entry for a parallel region: function, its data, threads (0: default), flags. LLVM's and Intel's runtimes
/// have it too. Null without an OpenMP library.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel gomp_parallel();

}  // namespace torchfeed::threading
