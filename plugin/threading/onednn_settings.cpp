#include <dlfcn.h>
#include <link.h>
#include <torchfeed/plugin/threading/onednn_settings.h>

#include <string>

namespace torchfeed::threading {
namespace {

int find_libtorch(dl_phdr_info* info, size_t, void* data) {
  const std::string path = info->dlpi_name ? info->dlpi_name : "";
  if (path.substr(path.find_last_of('/') + 1).rfind("libtorch_cpu.so", 0) != 0) return 0;
  *static_cast<std::string*>(data) = path;
  return 1;
}

/// LibTorch's library, so that a lookup goes through it and what it depends on: a program may have loaded another
/// oneDNN beside it. Stays open for the life of the process.
void* libtorch() {
  static void* const handle = [] {
    std::string path;
    dl_iterate_phdr(find_libtorch, &path);
    return path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  }();
  return handle;
}

template <typename Function>
Function find(const char* name) {
  return libtorch() ? reinterpret_cast<Function>(dlsym(libtorch(), name)) : nullptr;
}

// Both return 0 for success (dnnl_success).
std::optional<int> get(const char* name) {
  int value = 0;
  const auto function = find<int (*)(int*)>(name);
  return function && function(&value) == 0 ? std::optional(value) : std::nullopt;
}

bool set(const char* name, int value) {
  const auto function = find<int (*)(int)>(name);
  return function && function(value) == 0;
}

}  // namespace

std::optional<int> onednn_primitive_cache() { return get("dnnl_get_primitive_cache_capacity"); }

bool set_onednn_primitive_cache(int capacity) {
  return set("dnnl_set_primitive_cache_capacity", capacity) && onednn_primitive_cache() == capacity;
}

std::optional<int> onednn_fpmath_mode() { return get("dnnl_get_default_fpmath_mode"); }

bool set_onednn_fpmath_mode(int mode) {
  return set("dnnl_set_default_fpmath_mode", mode) && onednn_fpmath_mode() == mode;
}

}  // namespace torchfeed::threading
