#pragma once

#include <sys/mman.h>

#include <atomic>

namespace torchfeed::testing {

/// A number that all processes see, to make something happen once.
class SharedCounter {
 public:
  SharedCounter()
      : value_(static_cast<std::atomic<int>*>(
            ::mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedCounter() { ::munmap(value_, sizeof(std::atomic<int>)); }
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;
  std::atomic<int>& operator*() { return *value_; }

 private:
  std::atomic<int>* value_;
};

}  // namespace torchfeed::testing
