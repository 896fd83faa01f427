#include <torchfeed/plugin/threading/attention_kernels.h>

#if __has_include(<ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>)

#include <ATen/Parallel.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_native.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>
#include <c10/util/Exception.h>
#include <torch/library.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>

#include <optional>
#include <utility>

namespace torchfeed::threading {
namespace {

/// LibTorch's function `kKernel`, whatever its arguments are in this version.
template <auto kKernel>
struct OnOneBlasThread;

template <typename Result, typename... Arguments, Result (*kKernel)(Arguments...)>
struct OnOneBlasThread<kKernel> {
  static Result call(Arguments... arguments) {
    std::optional<SingleThreadedBlasScope> one_thread;
    if (openmp_team_is_shared() && at::get_num_threads() > 1) one_thread.emplace();
    return kKernel(std::forward<Arguments>(arguments)...);
  }
};

/// LibTorch warns of a kernel that is replaced.
class Silence : public c10::WarningHandler {
 public:
  void process(const c10::Warning& /*warning*/) override {}
};

torch::Library register_kernels() {
  Silence silence;
  const c10::WarningUtils::WarningHandlerGuard guard(&silence);
  torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
  library.impl("_scaled_dot_product_flash_attention_for_cpu",
               TORCH_FN(OnOneBlasThread<&at::native::_scaled_dot_product_flash_attention_cpu>::call));
  library.impl("_scaled_dot_product_flash_attention_for_cpu_backward",
               TORCH_FN(OnOneBlasThread<&at::native::_scaled_dot_product_flash_attention_cpu_backward>::call));
  return library;
}

}  // namespace

void give_attention_one_blas_thread() {
  // Never undone: other threads may compute while the process ends.
  static const auto* const library = new torch::Library(register_kernels());
  static_cast<void>(library);
}

}  // namespace torchfeed::threading

#else

namespace torchfeed::threading {

void give_attention_one_blas_thread() {}

}  // namespace torchfeed::threading

#endif
