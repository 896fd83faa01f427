#include <torchfeed/plugin/loader/fork_depth.h>

#include <pthread.h>

#include <atomic>

namespace torchfeed::loader {
namespace {

std::atomic<std::uint32_t> depth{0};

}  // namespace

std::uint32_t fork_depth() noexcept {
  // Registered when the first loader asks, and so before any fork that matters.
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { depth.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(registered);
  return depth.load(std::memory_order_relaxed);
}

}  // namespace torchfeed::loader
