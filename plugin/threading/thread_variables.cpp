#include <torchfeed/plugin/threading/thread_variables.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace torchfeed::threading {
namespace {

std::optional<int> read_number(const char* name, const char* text, std::vector<std::string>& notes) {
  if (!text || !*text) return std::nullopt;
  std::string_view value(text);
  value = value.substr(0, value.find(','));
  while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
  while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
  int number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error == std::errc() && end == value.data() + value.size() && number >= 1 && number <= kMaxThreads) return number;
  notes.push_back(std::string(name) + "=" + text + " is left out: expected 1 to " + std::to_string(kMaxThreads) +
                  " threads");
  return std::nullopt;
}

bool equal_but_for_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if ((a[i] | 0x20) != (b[i] | 0x20)) return false;
  return true;
}

/// Whether a variable that can bind threads has a value that says not to.
bool says_no(std::string_view value) {
  for (const char* no : {"false", "none", "disabled"})
    if (equal_but_for_case(value, no)) return true;
  return value.empty();
}

/// The first variable by which the user decides about malloc, with its value.
std::string malloc_setting(const std::function<const char*(const char*)>& text) {
  struct Variable {
    const char* name;
    std::string_view part;  // of its value
  };
  const Variable variables[] = {
      {"MALLOC_TRIM_THRESHOLD_", ""}, {"MALLOC_MMAP_THRESHOLD_", ""},      {"MALLOC_MMAP_MAX_", ""},
      {"MALLOC_TOP_PAD_", ""},        {"GLIBC_TUNABLES", "glibc.malloc."}, {"LD_PRELOAD", "malloc"}};
  for (const Variable& variable : variables) {
    const char* value = text(variable.name);
    if (value != nullptr && *value != '\0' && std::string_view(value).find(variable.part) != std::string_view::npos)
      return std::string(variable.name) + "=" + value;
  }
  return "";
}

}  // namespace

ThreadVariables read_thread_variables(const std::function<const char*(const char*)>& get) {
  const auto text = [&](const char* name) { return get ? get(name) : std::getenv(name); };
  ThreadVariables variables;
  const auto number = [&](const char* name) { return read_number(name, text(name), variables.notes); };
  variables.omp_num_threads = number("OMP_NUM_THREADS");
  variables.mkl_num_threads = number("MKL_NUM_THREADS");
  variables.openblas_num_threads = number("OPENBLAS_NUM_THREADS");
  variables.omp_thread_limit = number("OMP_THREAD_LIMIT");
  for (const char* name : {"OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET", "OMP_PLACES"}) {
    const char* value = text(name);
    if (value == nullptr) continue;
    if (!says_no(value)) {
      variables.binding = std::string(name) + "=" + value;
      break;
    }
    if (std::string_view(name) == "OMP_PROC_BIND" && *value != '\0') break;  // goes before the others
  }
  if (const char* kernels = text("OPENBLAS_CORETYPE")) variables.blas_kernels = kernels;
  for (const char* name : {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"}) {
    const char* value = text(name);
    if (value != nullptr && *value != '\0' && variables.primitive_cache.empty())
      variables.primitive_cache = std::string(name) + "=" + value;
  }
  variables.malloc_setting = malloc_setting(text);
  return variables;
}

}  // namespace torchfeed::threading
