#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/blas_threads.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <vector>

namespace torchfeed::threading {
namespace {

constexpr const char* kVariable = "OPENBLAS_CORETYPE";

template <typename Function>
Function find(const char* name) {
  return reinterpret_cast<Function>(blas_symbol(name));
}

/// A variable of the environment, put back at the end of the scope.
class VariableScope {
 public:
  VariableScope(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~VariableScope() { before_ ? ::setenv(name_, before_->c_str(), 1) : ::unsetenv(name_); }
  VariableScope(const VariableScope&) = delete;
  VariableScope& operator=(const VariableScope&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// What OpenBLAS itself does when it is loaded; its first half forgets the choice, without which the second does
/// nothing.
bool choose_anew(const std::string& name) {
  const auto quit = find<void (*)()>("gotoblas_dynamic_quit");
  const auto init = find<void (*)()>("gotoblas_dynamic_init");
  if (!quit || !init) return false;
  const VariableScope variable(kVariable, name);
  quit();
  init();
  return blas_kernels() == name;
}

/// Whether a product of matrices of small integers is exact, as it has to be in float.
bool multiplies_right() {
  // Odd sizes, beyond one block of any kernel.
  constexpr int kRows = 67, kColumns = 45, kInner = 131;
  using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                        const int*, const float*, const int*, const float*, float*, const int*);
  const auto gemm = find<Gemm>("sgemm_");
  if (!gemm) return false;
  std::vector<float> a(kRows * kInner), b(kInner * kColumns), c(kRows * kColumns);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 5) - 2;
  const float one = 1, zero = 0;
  gemm("N", "N", &kRows, &kColumns, &kInner, &one, a.data(), &kRows, b.data(), &kInner, &zero, c.data(), &kRows);
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      float sum = 0;
      for (int i = 0; i < kInner; ++i) sum += a[i * kRows + row] * b[column * kInner + i];
      if (c[column * kRows + row] != sum) return false;
    }
  }
  return true;
}

}  // namespace

CpuFeatures cpu_features() {
  CpuFeatures features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  features.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
#endif
  return features;
}

std::string blas_kernels() {
  // One built for a single processor has nothing to choose from.
  if (!find<void (*)()>("gotoblas_dynamic_init")) return "";
  const auto name = find<char* (*)()>("openblas_get_corename");
  return name ? name() : "";
}

std::string better_blas_kernels(const std::string& current, const CpuFeatures& features) {
  // OpenBLAS's x86-64 names from before AVX.
  constexpr const char* kOld[] = {"Prescott", "Core2",   "Penryn",     "Dunnington",   "Nehalem",   "Atom",
                                  "Nano",     "Opteron", "Athlon",     "Opteron_SSE3", "Barcelona", "Bobcat",
                                  "Banias",   "Katmai",  "Coppermine", "Northwood"};
  const bool old = std::any_of(std::begin(kOld), std::end(kOld), [&](const char* name) { return current == name; });
  if (!old || !features.avx2) return "";
  return features.avx512 ? "SkylakeX" : "Haswell";
}

bool set_blas_kernels(const std::string& name) {
  const std::string before = blas_kernels();
  if (before.empty()) return false;
  if (before == name) return true;
  if (choose_anew(name) && multiplies_right()) return true;
  if (blas_kernels() != before) choose_anew(before);
  return false;
}

}  // namespace torchfeed::threading
