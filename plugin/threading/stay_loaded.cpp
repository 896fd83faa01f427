#include <dlfcn.h>
#include <torchfeed/plugin/threading/stay_loaded.h>

namespace torchfeed::threading {

void stay_loaded() {
  Dl_info here{};
  if (dladdr(reinterpret_cast<void*>(&stay_loaded), &here) != 0)
    static_cast<void>(dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE));
}

}  // namespace torchfeed::threading
