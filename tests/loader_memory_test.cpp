// Shared memory: never more than the budget, given back after large batches, waited for when others have it.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/loader/pinned_slots.h>

#include "support/loader_datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using ::testing::HasSubstr;
using testing::Sequential;
using testing::TensorDataset;

constexpr std::size_t kMiB = std::size_t{1} << 20;
/// The ring's own state and each slot's pages for its request and the rounding up.
constexpr std::size_t kControlBytes = kMiB;

/// Bytes that all loaders of this process have of the system's shared memory.
std::size_t shared_bytes() {
  std::size_t sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    struct stat status {};
    if (std::filesystem::read_symlink(entry.path(), gone).string().find("memfd:torchfeed") != std::string::npos &&
        ::stat(entry.path().c_str(), &status) == 0) {
      sum += static_cast<std::size_t>(status.st_blocks) * 512;
    }
  }
  return sum;
}

/// Batches of one index each, which fill their bytes with it; `bytes_of` says how many.
TensorDataset sized_dataset(std::size_t size, std::function<std::size_t(std::size_t)> bytes_of) {
  return {size, [bytes_of](const std::vector<std::size_t>& indices) {
            auto batch = empty_batch({static_cast<std::int64_t>(bytes_of(indices[0]) / 8)}, torch::kInt64);
            return batch.fill_(static_cast<std::int64_t>(indices[0]));
          }};
}

/// The index that fills the whole batch, or -1.
std::int64_t index_in(const torch::Tensor& batch) {
  const auto first = batch[0].item<std::int64_t>();
  return batch.eq(first).all().item<bool>() ? first : -1;
}

class WithOrder : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Orders, WithOrder, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "InOrder" : "AsDone"; });

TEST_P(WithOrder, RandomBatchesNeverTakeMoreThanTheBudgetAndAllArrive) {
  std::mt19937 random(7);
  for (int round = 0; round < 8; ++round) {
    const std::size_t budget = (4 + random() % 12) * kMiB;
    const std::size_t seed = random();
    // Up to the whole budget, most of them small.
    const auto bytes_of = [=](std::size_t index) {
      std::mt19937 own(static_cast<std::uint32_t>(seed + index));
      const std::size_t most = own() % 4 == 0 ? budget - kMiB / 4 : budget / 6;
      return own() % most / 8 * 8 + 8;
    };
    auto loader = make_data_loader<Sequential>(sized_dataset(60, bytes_of),
                                               DataLoaderOptions(1)
                                                   .num_workers(1 + static_cast<std::int64_t>(random() % 3))
                                                   .prefetch_factor(1 + random() % 4)
                                                   .in_order(GetParam())
                                                   .shared_memory_budget(budget));
    std::vector<std::int64_t> seen;
    std::size_t peak = 0;
    for (auto& batch : *loader) {
      seen.push_back(index_in(batch));
      EXPECT_EQ(static_cast<std::size_t>(batch.nbytes()), bytes_of(static_cast<std::size_t>(seen.back())));
      peak = std::max(peak, shared_bytes());
    }
    EXPECT_LE(peak, budget + kControlBytes) << "round " << round;
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, testing::counting(60)) << "round " << round;
  }
}

TEST_P(WithOrder, BatchesThatAreKeptLeaveRoomForTheOthers) {
  constexpr std::size_t kBudget = 8 * kMiB;
  auto loader = make_data_loader<Sequential>(
      sized_dataset(40, [](std::size_t) { return 3 * kMiB; }),
      DataLoaderOptions(1).num_workers(2).prefetch_factor(4).in_order(GetParam()).shared_memory_budget(kBudget));
  std::deque<torch::Tensor> kept;
  for (auto& batch : *loader) {
    kept.push_back(batch);
    EXPECT_LE(shared_bytes(), kBudget + kControlBytes);
  }
  ASSERT_EQ(kept.size(), 40U);
  std::vector<std::int64_t> seen;
  for (const auto& batch : kept) {
    seen.push_back(index_in(batch));
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, testing::counting(40));
  EXPECT_GT(loader->stats().copied_batches, 30U);
}

TEST(LoaderMemory, IsGivenBackWhenBatchesAreSmallAgain) {
  auto loader = make_data_loader<Sequential>(
      sized_dataset(1000, [](std::size_t index) { return index < 4 ? 64 * kMiB : std::size_t{4096}; }),
      DataLoaderOptions(1).num_workers(2).shared_memory_budget(1024 * kMiB));
  std::size_t peak = 0;
  for (auto& batch : *loader) {
    static_cast<void>(batch);
    peak = std::max(peak, shared_bytes());
  }
  EXPECT_GT(peak, 64 * kMiB);
  EXPECT_LT(shared_bytes(), 8 * kMiB);
}

TEST(LoaderMemory, ABatchBeyondTheBudgetIsAnErrorWithBothSizesAndTheNextOnesArrive) {
  for (const std::int64_t workers : {1, 2}) {
    auto loader =
        make_data_loader<Sequential>(sized_dataset(10, [](std::size_t index) { return index == 4 ? 40 * kMiB : kMiB; }),
                                     DataLoaderOptions(1).num_workers(workers).shared_memory_budget(8 * kMiB));
    std::vector<std::int64_t> seen;
    std::string message;
    auto iterator = loader->begin();
    for (int i = 0; i < 10; ++i) {
      try {
        if (i > 0) {
          ++iterator;
        }
        seen.push_back(index_in(*iterator));
      } catch (const c10::Error& error) {
        message = error.what_without_backtrace();
      }
    }
    EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1, 2, 3, 5, 6, 7, 8, 9}));
    EXPECT_THAT(message, HasSubstr("batch 4, indices [4]"));
    EXPECT_THAT(message, HasSubstr("expected at most 8388608 bytes"));
    EXPECT_THAT(message, HasSubstr("41943"));
  }
}

/// What a driver was asked, in order: +bytes and -bytes.
std::vector<std::int64_t> asked;
std::int64_t registered_bytes = 0;

TEST(PinnedSlots, RegistersASlotOnceForEachSizeThatItGrowsTo) {
  asked.clear();
  const loader::HostMemoryDriver driver{[](void*, std::size_t bytes, unsigned) {
                                          asked.push_back(registered_bytes = static_cast<std::int64_t>(bytes));
                                          return 0;
                                        },
                                        [](void*) {
                                          asked.push_back(-registered_bytes);
                                          return 0;
                                        }};
  char memory[64];
  {
    loader::PinnedSlots slots(driver);
    slots.pin(3, memory, 16);
    slots.pin(3, memory, 16);
    slots.pin(3, memory, 8);
    slots.pin(3, memory, 32);
  }
  EXPECT_EQ(asked, (std::vector<std::int64_t>{16, -16, 32, -32}));
}

TEST(PinnedSlots, LeaveOrdinaryMemoryWhereTheDriverRefuses) {
  asked.clear();
  const loader::HostMemoryDriver driver{[](void*, std::size_t, unsigned) { return 2; },
                                        [](void*) {
                                          asked.push_back(0);
                                          return 0;
                                        }};
  char memory[8];
  { loader::PinnedSlots(driver).pin(0, memory, 8); }
  EXPECT_TRUE(asked.empty()) << "nothing to take back";
}

TEST(PinnedSlots, NeedAGpuAndDoNothingWithoutOne) {
  if (at::hasCUDA()) {
    GTEST_SKIP() << "there is a GPU";
  }
  auto loader =
      make_data_loader<Sequential>(testing::index_dataset(100), DataLoaderOptions(10).num_workers(2).pin_memory(true));
  EXPECT_EQ(testing::one_epoch_of_indices(*loader), testing::counting(100));
}

}  // namespace
}  // namespace torchfeed
