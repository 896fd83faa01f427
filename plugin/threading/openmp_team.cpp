#include <dlfcn.h>
#include <torchfeed/plugin/threading/openmp_team.h>

#include <algorithm>
#include <atomic>

namespace torchfeed::threading {
namespace {

struct Region {
  const std::function<void()>& body;
  std::atomic<int> threads{0};
};

void enter(void* data) {
  auto& region = *static_cast<Region*>(data);
  region.body();
  region.threads.fetch_add(1);
}

}  // namespace

GompParallel gomp_parallel() {
  // The regions of ATen itself are compiled into it and its headers; a library that is opened at run time cannot rely
  // on being compiled with OpenMP as well.
  static const auto parallel = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return parallel;
}

int run_in_openmp_team(int threads, const std::function<void()>& body) {
  Region region{body};
  if (threads > 1 && gomp_parallel() != nullptr) {
    gomp_parallel()(enter, &region, static_cast<unsigned>(threads), 0);
  } else {
    enter(&region);
  }
  return std::max(1, region.threads.load());
}

}  // namespace torchfeed::threading
