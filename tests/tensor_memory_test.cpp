#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torchfeed/plugin/threading/tensor_memory.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <future>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed::threading {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// Each test finds LibTorch's own allocator, and leaves it.
class TensorMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (keep_tensor_memory(64 * kMiB) == "AddressSanitizer watches it") GTEST_SKIP() << "not with AddressSanitizer";
    keep_tensor_memory(0);
  }
  void TearDown() override {
    keep_tensor_memory(0);
    EXPECT_EQ(c10::GetCPUAllocator(), c10::GetDefaultCPUAllocator());
  }
};

at::Tensor bytes(std::int64_t size) { return at::empty({size}, at::kByte); }

long page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

/// Pages that come from the kernel while tensors of 64 MiB are made, filled and freed, one after another.
long faults_of_tensors(int count) {
  bytes(64 << 20).fill_(1);
  const long before = page_faults();
  for (int i = 0; i < count; ++i) bytes(64 << 20).fill_(1);
  return page_faults() - before;
}

TEST_F(TensorMemoryTest, TheNextTensorOfItsSizeTakesAFreedOnesMemory) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  for (const std::int64_t size : {1, 100, 5'000, 70'000, 8'000'000}) {
    at::Tensor tensor = bytes(size);
    const void* const memory = tensor.data_ptr();
    tensor.reset();
    EXPECT_EQ(bytes(size).data_ptr(), memory) << size;
  }
}

TEST_F(TensorMemoryTest, ALargeTensorsPagesComeFromTheKernelOnce) {
  ASSERT_GT(faults_of_tensors(3), 60) << "glibc maps each anew, or this machine has nothing to save";
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  EXPECT_LT(faults_of_tensors(3), 30);
}

TEST_F(TensorMemoryTest, TensorsOfAllSizesAreAlignedAndApart) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  for (int round = 0; round < 2; ++round) {  // new memory, and kept memory
    std::vector<at::Tensor> tensors;
    for (std::int64_t size = 1; size < 3'000'000; size += 1 + size / 7) tensors.push_back(bytes(size));
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].fill_(static_cast<int>(i % 251));
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors[i].data_ptr()) % 64, 0U);
      ASSERT_TRUE(tensors[i].eq(static_cast<int>(i % 251)).all().item<bool>()) << tensors[i].numel();
    }
  }
}

TEST_F(TensorMemoryTest, NoMoreThanTheLimitLiesIdle) {
  ASSERT_EQ(keep_tensor_memory(10 * kMiB), "");
  {
    std::vector<at::Tensor> tensors;
    for (int i = 0; i < 5; ++i) tensors.push_back(bytes(4 << 20));
  }
  EXPECT_GT(tensor_memory().idle, 4 * kMiB);
  EXPECT_LE(tensor_memory().idle, 10 * kMiB);
  bytes(100 << 20);
  EXPECT_LE(tensor_memory().idle, 10 * kMiB);
}

TEST_F(TensorMemoryTest, WhatNobodyNeedsForAWhileGoesBack) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB, std::chrono::milliseconds(20)), "");
  bytes(100 << 20);
  EXPECT_GT(tensor_memory().idle, 100 * kMiB);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (tensor_memory().idle > 100 * kMiB && std::chrono::steady_clock::now() < end) bytes(1 << 20);
  EXPECT_LT(tensor_memory().idle, 4 * kMiB);
  EXPECT_GE(tensor_memory().idle, kMiB) << "what is needed stays";
}

TEST_F(TensorMemoryTest, AllGoesBackWhenItEndsAndTensorsOutliveIt) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  at::Tensor large = at::ones({1'000'000}), small = at::ones({10});
  bytes(8 << 20);
  EXPECT_GT(tensor_memory().idle, 0U);
  EXPECT_EQ(keep_tensor_memory(0), "");
  EXPECT_EQ(tensor_memory().limit, 0U);
  EXPECT_EQ(tensor_memory().idle, 0U);
  EXPECT_EQ(large.sum().item<float>() + small.sum().item<float>(), 1'000'010);
  large.resize_({3'000'000}).fill_(2);  // by the allocator that made it
  EXPECT_EQ(large.sum().item<float>(), 6'000'000);
  large.reset();
  small.reset();
  EXPECT_EQ(tensor_memory().idle, 0U);
}

TEST_F(TensorMemoryTest, WhatAThreadHasAtHandIsSharedWhenItEnds) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  at::Tensor tensor = bytes(1'000);
  const void* const memory = tensor.data_ptr();
  std::thread([taken = std::move(tensor)]() mutable { taken.reset(); }).join();
  EXPECT_GT(tensor_memory().idle, 1'000U);
  EXPECT_EQ(bytes(1'000).data_ptr(), memory);
}

TEST_F(TensorMemoryTest, ThreadsMakeAndFreeEachOthersTensors) {
  ASSERT_EQ(keep_tensor_memory(8 * kMiB), "");
  constexpr int kThreads = 4, kTensors = 300;
  std::vector<std::future<std::vector<at::Tensor>>> made;
  for (int thread = 0; thread < kThreads; ++thread) {
    made.push_back(std::async(std::launch::async, [thread] {
      std::vector<at::Tensor> tensors;
      for (int i = 0; i < kTensors; ++i) {
        bytes(i * 1'000);
        tensors.push_back(at::full({i * 100 + 1}, thread));
      }
      return tensors;
    }));
  }
  for (int thread = 0; thread < kThreads; ++thread)
    for (const at::Tensor& tensor : made[static_cast<size_t>(thread)].get())
      ASSERT_TRUE(tensor.eq(thread).all().item<bool>());
}

TEST_F(TensorMemoryTest, AForkedChildKeepsNothing) {
  ASSERT_EQ(keep_tensor_memory(256 * kMiB), "");
  at::Tensor before = at::ones({100'000});
  bytes(8 << 20);
  const pid_t child = fork();
  if (child == 0) {
    before.reset();
    const at::Tensor own = at::ones({100'000});
    const TensorMemory memory = tensor_memory();
    const bool again = keep_tensor_memory(kMiB).empty() && tensor_memory().limit == kMiB;
    _exit(memory.limit == 0 && memory.idle == 0 && own[7].item<float>() == 1 && again ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(tensor_memory().limit, 256 * kMiB) << "the parent goes on";
}

TEST_F(TensorMemoryTest, AnAllocatorOfTheProgramsOwnIsLeftAlone) {
  c10::SetCPUAllocator(c10::GetDefaultMobileCPUAllocator());
  EXPECT_EQ(keep_tensor_memory(kMiB), "the program has an allocator of its own");
  EXPECT_EQ(c10::GetCPUAllocator(), c10::GetDefaultMobileCPUAllocator());
  EXPECT_EQ(tensor_memory().limit, 0U);
  c10::SetCPUAllocator(c10::GetDefaultCPUAllocator());
}

TEST_F(TensorMemoryTest, AnImpossibleSizeIsLibTorchsError) {
  ASSERT_EQ(keep_tensor_memory(kMiB), "");
  EXPECT_THROW(bytes(std::int64_t{1} << 47), c10::Error);
  EXPECT_EQ(bytes(0).numel(), 0);
}

}  // namespace
}  // namespace torchfeed::threading
