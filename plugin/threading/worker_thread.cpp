#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/Parallel.h>

#include <dlfcn.h>

namespace torchfeed::threading {

void compute_on_this_thread_alone() {
  // ATen sets OpenMP's count once in each thread, before that thread's first region: let that be over.
  at::internal::lazy_init_num_threads();
  // Not at::set_num_threads(), which would be every new thread's count.
  if (const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) {
    set(1);
  }
}

}  // namespace torchfeed::threading
