#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace torchfeed::loader {

/// Sleeps while `word` holds `expected`, at most `timeout`. Works across processes. Returns early for no reason
/// at times (a signal, a late wake): callers look at their condition again.
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds timeout);

/// Wakes at most `count` sleepers of `word`, in any process.
void futex_wake(const std::atomic<std::uint32_t>& word, int count);

/// Tells the processor that this is a spin loop.
inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace torchfeed::loader
