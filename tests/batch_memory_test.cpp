// Memory that batches take in passing, and whose it is after.
#include <torchfeed/plugin/loader/batch_pool.h>

#include "support/forked_child.h"
#include "support/loader_datasets.h"
#include "support/sanitized.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::one_epoch;
using testing::options_of;
using testing::Sequential;
using testing::Setting;
using testing::TensorDataset;

/// The first of all here, as malloc learns from what others of this process do.
TEST(BatchMemory, IsKeptByWorkersForWhatADatasetUsesInPassing) {
  if (testing::kSanitized) GTEST_SKIP() << "sanitizers have an allocator of their own";
  constexpr std::size_t kPieces = 32;
  const auto make = [](const std::vector<std::size_t>& /*indices*/) {
    rusage before{};
    ::getrusage(RUSAGE_SELF, &before);
    std::vector<torch::Tensor> pieces;
    for (std::size_t i = 0; i < kPieces; ++i) {
      pieces.push_back(torch::ones({150 * 1024}));  // 600 KiB each
    }
    rusage after{};
    ::getrusage(RUSAGE_SELF, &after);
    return torch::full({1}, static_cast<std::int64_t>(after.ru_minflt - before.ru_minflt), torch::kInt64);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(10, make), DataLoaderOptions(1).num_workers(1));
  const auto faults = one_epoch(*loader);
  EXPECT_GT(faults.front().item<std::int64_t>(), 3000) << "the first has new memory";
  EXPECT_LT(faults.back().item<std::int64_t>(), 300);
}

constexpr std::int64_t kLarge = 1 << 20;  // numbers of 8 bytes

torch::Tensor of_pool(loader::BatchPool& pool, std::int64_t numbers = kLarge) {
  return pool.empty({numbers}, torch::kInt64, 8 * static_cast<std::uint64_t>(numbers));
}

TEST(BatchPool, GivesTheMemoryOfATensorThatIsGoneToTheNextOfItsSize) {
  const auto pool = std::make_shared<loader::BatchPool>();
  torch::Tensor first = of_pool(*pool);
  const void* const memory = first.data_ptr();
  first.fill_(7);
  const torch::Tensor second = of_pool(*pool);
  EXPECT_NE(second.data_ptr(), memory) << "the first is there still";
  torch::Tensor view = first.slice(0, 0, 10);
  first.reset();
  EXPECT_NE(of_pool(*pool).data_ptr(), memory) << "a part of it is";
  view.reset();
  const torch::Tensor third = of_pool(*pool);
  EXPECT_EQ(third.data_ptr(), memory);
  EXPECT_EQ(third.sum().item<std::int64_t>(), 7 * kLarge) << "it was not given back meanwhile";
}

TEST(BatchPool, KeepsNoMoreThanItIsToldTo) {
  const auto pool = std::make_shared<loader::BatchPool>();
  torch::Tensor first = of_pool(*pool);
  const void* const memory = first.data_ptr();
  pool->keep(1);
  torch::Tensor second = of_pool(*pool);
  first.fill_(7);
  first.reset();
  const void* const kept = second.data_ptr();
  second.reset();  // one too many
  EXPECT_NE(kept, memory);
  EXPECT_EQ(of_pool(*pool).data_ptr(), kept) << "what was in use last";
  pool->keep(0);
  EXPECT_EQ(of_pool(*pool).numel(), kLarge);
}

TEST(BatchPool, KeepsWhatDoesNotFitForThoseWhomItFits) {
  const auto pool = std::make_shared<loader::BatchPool>();
  torch::Tensor small = of_pool(*pool);
  torch::Tensor large = of_pool(*pool, 4 * kLarge);
  const void* const small_memory = small.data_ptr();
  const void* const large_memory = large.data_ptr();
  small.fill_(7);
  small.reset();
  large.fill_(8);
  large.reset();
  small = of_pool(*pool);
  large = of_pool(*pool, 4 * kLarge);
  EXPECT_EQ(small.data_ptr(), small_memory);
  EXPECT_EQ(small.sum().item<std::int64_t>(), 7 * kLarge);
  EXPECT_EQ(large.data_ptr(), large_memory);
}

TEST(BatchPool, IsLeftAloneInAFork) {
  const auto pool = std::make_shared<loader::BatchPool>();
  const void* const memory = of_pool(*pool).data_ptr();
  const std::string said = testing::said_in_a_child([&]() -> std::string {
    pool->keep(0);
    return of_pool(*pool).data_ptr() == memory ? "the pool's" : "its own";
  });
  EXPECT_EQ(said, "its own");
  EXPECT_EQ(of_pool(*pool).data_ptr(), memory);
}

TEST(BatchPool, TakesBackWhatOtherThreadsDrop) {
  const auto pool = std::make_shared<loader::BatchPool>();
  torch::Tensor tensor = of_pool(*pool).fill_(7);
  const void* const memory = tensor.data_ptr();
  std::thread([dropped = std::move(tensor)] {}).join();
  EXPECT_EQ(of_pool(*pool).data_ptr(), memory);
}

TEST(BatchPool, EndsWhenItsLastTensorDoes) {
  auto pool = std::make_shared<loader::BatchPool>();
  const std::weak_ptr<loader::BatchPool> life = pool;
  torch::Tensor kept = of_pool(*pool).fill_(3);
  pool.reset();
  EXPECT_EQ(kept.sum().item<std::int64_t>(), 3 * kLarge);
  EXPECT_FALSE(life.expired());
  kept.reset();
  EXPECT_TRUE(life.expired());
}

class InTheTrainersProcess : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, InTheTrainersProcess,
                         ::testing::Values(Setting{0}, Setting{1, WorkerMode::kThread},
                                           Setting{3, WorkerMode::kThread}),
                         [](const auto& info) { return testing::name_of(info.param); });

TEST_P(InTheTrainersProcess, LargeBatchesAreThePoolsAndNeverOverwrittenWhileTheyAreKept) {
  const auto make = [](const std::vector<std::size_t>& indices) {
    EXPECT_NE(loader::current_pool(), nullptr);
    EXPECT_LT(empty_batch({4}).storage().nbytes(), 1024U);
    return empty_batch({kLarge / 4}, torch::kInt64).fill_(static_cast<std::int64_t>(indices[0]));
  };
  std::vector<torch::Tensor> kept;
  {
    auto loader = make_data_loader<Sequential>(TensorDataset(60, make), options_of(GetParam(), 1));
    std::int64_t next = 0;
    for (const torch::Tensor& batch : *loader) {
      EXPECT_EQ(batch.sum().item<std::int64_t>(), next * (kLarge / 4));
      EXPECT_FALSE(batch.storage().resizable()) << "memory of the pool's is not malloc's to grow";
      if (next++ % 5 == 0) {
        kept.push_back(batch);
      }
    }
    EXPECT_EQ(next, 60);
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].sum().item<std::int64_t>(), 5 * static_cast<std::int64_t>(i) * (kLarge / 4));
  }
  EXPECT_EQ(loader::current_pool(), nullptr);
}

TEST_P(InTheTrainersProcess, BatchesAreWhatTheirOptionsAskFor) {
  const auto make = [](const std::vector<std::size_t>& /*indices*/) {
    const auto options = torch::dtype(torch::kFloat).memory_format(torch::MemoryFormat::ChannelsLast);
    EXPECT_TRUE(empty_batch({4, 16, 64, 128}, options).is_contiguous(torch::MemoryFormat::ChannelsLast));
    return empty_batch({kLarge}, torch::requires_grad());
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(2, make), options_of(GetParam(), 1));
  for (const torch::Tensor& batch : *loader) {
    EXPECT_TRUE(batch.requires_grad());
  }
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t pages = 0;
  file >> pages >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

TEST_P(InTheTrainersProcess, MemoryThatNoTensorHasGoesWithTheLoader) {
  if (testing::kSanitized) GTEST_SKIP() << "sanitizers keep memory that was given back";
  constexpr std::int64_t kBytes = std::int64_t{64} << 20;
  const auto make = [](const std::vector<std::size_t>& /*indices*/) {
    return empty_batch({kBytes}, torch::kUInt8).fill_(1);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(6, make), options_of(GetParam(), 1));
  torch::Tensor kept;
  for (const torch::Tensor& batch : *loader) {
    kept = batch;
  }
  const std::int64_t before = resident_bytes();
  loader.reset();
  EXPECT_LT(resident_bytes(), before - kBytes / 2);
  EXPECT_EQ(kept[0].item<std::uint8_t>(), 1);
}

}  // namespace
}  // namespace torchfeed
