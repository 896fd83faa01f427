// Memory that batches take in passing, and whose it is after.
#include <torchfeed/plugin/loader/batch_pool.h>

#include "support/loader_datasets.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/resource.h>

#include <cstdint>
#include <memory>
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
  second.reset();  // one too many
  EXPECT_EQ(of_pool(*pool).data_ptr(), memory);
  const torch::Tensor large = of_pool(*pool, 4 * kLarge);
  EXPECT_EQ(large.numel(), 4 * kLarge) << "a block that is too small makes room";
  of_pool(*pool);
  pool->keep(0);
  EXPECT_EQ(of_pool(*pool).numel(), kLarge);
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

}  // namespace
}  // namespace torchfeed
