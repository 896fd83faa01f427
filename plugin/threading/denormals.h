#pragma once

namespace torchfeed::threading {

/// Whether the calling thread takes numbers too small for their type's usual form (denormals) as zero.
bool flushes_denormals();

/// Lets the calling thread and its OpenMP team of `threads` flush denormals to zero, or not. Processors keep this for
/// each thread: threads that start later inherit it from those that start them, and pools that run already beside
/// OpenMP's (OpenBLAS's own, where it uses them) keep theirs. Returns how many threads read it back as asked, of how
/// many took part.
struct DenormalThreads {
  int set = 0;
  int threads = 0;
};
DenormalThreads set_flush_denormals(bool flush, int threads);

}  // namespace torchfeed::threading
