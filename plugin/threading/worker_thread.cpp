#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/Parallel.h>

#include <dlfcn.h>

namespace torchfeed::threading {

void prepare_compute_alone() { at::internal::lazy_init_num_threads(); }

bool compute_on_this_thread_alone() {
  // ATen sets OpenMP's count once in each thread, before that thread's first region: let that be over.
  prepare_compute_alone();
  const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set == nullptr) {
    return false;
  }
  set(1);  // not at::set_num_threads(1), which would be every new thread's count
  return true;
}

}  // namespace torchfeed::threading
