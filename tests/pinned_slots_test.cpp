// Slots that are registered with a GPU's driver, here a made-up one.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/loader/lease.h>
#include <torchfeed/plugin/loader/pinned_slots.h>

#include "support/loader_datasets.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace torchfeed {
namespace {

using testing::Sequential;

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
    slots.unpin(3);
    slots.unpin(3);
    slots.unpin(9);
    slots.pin(3, memory, 8);
  }
  EXPECT_EQ(asked, (std::vector<std::int64_t>{16, -16, 32, -32, 8, -8}));
}

TEST(PinnedSlots, LeaveOrdinaryMemoryWhereTheDriverRefuses) {
  asked.clear();
  const loader::HostMemoryDriver driver{[](void*, std::size_t, unsigned) { return 2; },
                                        [](void*) {
                                          asked.push_back(0);
                                          return 0;
                                        },
                                        [] { return 0; }};
  char memory[8];
  { loader::PinnedSlots(driver).pin(0, memory, 8); }
  EXPECT_TRUE(asked.empty()) << "nothing to take back";
}

TEST(PinnedSlots, DoNotAskAgainForAsMuchAsTheDriverHasRefused) {
  asked.clear();
  const loader::HostMemoryDriver driver{[](void*, std::size_t bytes, unsigned) {
                                          asked.push_back(static_cast<std::int64_t>(bytes));
                                          return bytes < 32 ? 0 : 2;
                                        },
                                        [](void*) { return 0; }};
  char memory[64];
  loader::PinnedSlots slots(driver);
  for (std::uint32_t slot = 0; slot < 3; ++slot) {
    slots.pin(slot, memory, 32);
    slots.pin(slot, memory, 64);
  }
  slots.pin(0, memory, 16);
  EXPECT_EQ(asked, (std::vector<std::int64_t>{32, 16}));
}

TEST(PinnedSlots, AreFreeOnlyWhenTheGpuHasDoneWhatItWasAskedFor) {
  asked.clear();
  auto ring = std::make_shared<loader::LeasedRing>(2, std::uint64_t{1} << 20, 0);
  ring->pinned.emplace(loader::HostMemoryDriver{[](void*, std::size_t, unsigned) { return 0; }, [](void*) { return 0; },
                                                [] {
                                                  asked.push_back(7);
                                                  return 0;
                                                }});
  ring->ring.post(0, 0);
  (new loader::Lease(ring, 0))->release();
  EXPECT_EQ(asked, std::vector<std::int64_t>{7});
  EXPECT_EQ(ring->ring.word(0).state, loader::SlotState::kFree);
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
