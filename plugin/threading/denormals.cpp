#include <ATen/Context.h>
#include <torchfeed/plugin/threading/denormals.h>
#include <torchfeed/plugin/threading/openmp_team.h>

#include <atomic>
#include <limits>

namespace torchfeed::threading {

bool flushes_denormals() {
  // Computed and not asked of the processor, as this is what counts, and each architecture has another register.
  volatile float smallest = std::numeric_limits<float>::min();
  return smallest / 2 == 0;
}

DenormalThreads set_flush_denormals(bool flush, int threads) {
  std::atomic<int> set{0};
  DenormalThreads result;
  result.threads = run_in_openmp_team(threads, [&set, flush] {
    at::globalContext().setFlushDenormal(flush);  // false on processors that cannot, which is read back
    if (flushes_denormals() == flush) set.fetch_add(1);
  });
  result.set = set.load();
  return result;
}

}  // namespace torchfeed::threading
