#include <torchfeed/plugin/threading/worker_thread.h>

#include <ATen/Parallel.h>

#include <dlfcn.h>

namespace torchfeed::threading {
namespace {

using SetThreads = void (*)(int);

/// Looked up once, and before a fork: the loader's lock may be another thread's then.
SetThreads omp_set_num_threads() {
  static const auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  return set;
}

}  // namespace

void prepare_compute_alone() {
  // ATen sets OpenMP's count once in each thread, before that thread's first region, and where its headers' functions
  // are not one in all libraries, each library does: let that be over here, and in LibTorch's own.
  at::internal::lazy_init_num_threads();
  at::get_num_threads();
  omp_set_num_threads();
}

bool compute_on_this_thread_alone() {
  prepare_compute_alone();
  if (omp_set_num_threads() == nullptr) {
    return false;
  }
  omp_set_num_threads()(1);  // not at::set_num_threads(1), which would be every new thread's count
  return true;
}

}  // namespace torchfeed::threading
