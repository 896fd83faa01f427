#include <torchfeed/plugin/loader/futex.h>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace torchfeed::loader {
namespace {

// Not FUTEX_PRIVATE: trainer and workers are different processes. This is why std::atomic::wait will not do.
long futex(const std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

}  // namespace

void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds timeout) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  timespec limit{};
  limit.tv_sec = static_cast<std::time_t>(seconds.count());
  limit.tv_nsec = static_cast<long>((timeout - seconds).count());
  // EAGAIN (the word has changed), EINTR and ETIMEDOUT all mean the same: look again.
  futex(word, FUTEX_WAIT, expected, &limit);
}

void futex_wake(const std::atomic<std::uint32_t>& word, int count) {
  futex(word, FUTEX_WAKE, static_cast<std::uint32_t>(count), nullptr);
}

}  // namespace torchfeed::loader
