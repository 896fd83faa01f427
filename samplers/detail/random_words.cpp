#include <torchfeed/samplers/detail/random_words.h>

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

namespace torchfeed::samplers::detail {

std::uint64_t draw_seed() {
  const at::Generator generator = at::detail::getDefaultCPUGenerator();
  auto* cpu = static_cast<at::CPUGeneratorImpl*>(generator.unsafeGetGeneratorImpl());
  const std::lock_guard<std::mutex> lock(cpu->mutex_);
  return cpu->random64();
}

}  // namespace torchfeed::samplers::detail
