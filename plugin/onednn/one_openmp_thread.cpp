#include <torchfeed/plugin/onednn/one_openmp_thread.h>

#include <dlfcn.h>

namespace torchfeed::onednn {
namespace {

/// Null without an OpenMP library.
struct OpenMp {
  int (*get)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  void (*set)(int) = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
};

const OpenMp& openmp() {
  static const OpenMp kOpenMp;
  return kOpenMp;
}

}  // namespace

OneOpenMpThread::OneOpenMpThread() : threads_(openmp().get != nullptr ? openmp().get() : 1) {
  if (openmp().set != nullptr) openmp().set(1);
}

OneOpenMpThread::~OneOpenMpThread() {
  if (openmp().set != nullptr) openmp().set(threads_);
}

void OneOpenMpThread::prepare() { openmp(); }

}  // namespace torchfeed::onednn
