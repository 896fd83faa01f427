// A shuffle that stays near: complete, local, and how good it is.
#include <torchfeed/samplers/block_shuffle_sampler.h>
#include <torchfeed/samplers/shuffle_quality.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include "support/sampler_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace torchfeed::samplers {
namespace {

using testing::chi_square;
using testing::chi_square_limit;
using testing::copy_state;
using testing::counting_up;
using ::testing::HasSubstr;
using testing::message_of;
using testing::rest_of_epoch;
using testing::sorted;

constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();

struct Shape {
  std::size_t size;
  std::size_t block;
  std::size_t window;
};

/// Whole and short last blocks, whole and short last windows, one block, one window, blocks of one.
const std::vector<Shape> kShapes{{0, 4, 2},          {1, 4, 2},         {3, 4, 2},    {4, 4, 2},   {5, 4, 2},
                                 {8, 4, 2},          {9, 4, 2},         {12, 4, 2},   {13, 4, 2},  {100, 7, 3},
                                 {100, 7, 1},        {100, 1, 5},       {100, 10, 3}, {105, 7, 5}, {1000, 64, 16},
                                 {1001, 100, kHuge}, {50, kHuge, kHuge}};

BlockShuffleSampler make(const Shape& shape, std::uint64_t seed) {
  return BlockShuffleSampler(shape.size, {.block_size = shape.block, .window_blocks = shape.window, .seed = seed});
}

std::string name_of(const Shape& shape) {
  return std::to_string(shape.size) + " in blocks of " + std::to_string(shape.block) + " and windows of " +
         std::to_string(shape.window);
}

TEST(BlockShuffleSampler, GivesEveryIndexOnceWhateverTheBlocks) {
  for (const Shape& shape : kShapes) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      auto sampler = make(shape, seed);
      for (int epoch = 0; epoch < 3; ++epoch) {
        ASSERT_EQ(sorted(rest_of_epoch(sampler)), counting_up(shape.size)) << name_of(shape) << ", seed " << seed;
        sampler.reset();
      }
    }
  }
}

TEST(BlockShuffleSampler, SeeksToAnyPosition) {
  for (const Shape& shape : kShapes) {
    auto sampler = make(shape, 3);
    const auto order = rest_of_epoch(sampler, 1000);
    for (std::size_t i = 0; i < shape.size; ++i) {
      const std::size_t position = i * 37 % shape.size;
      sampler.seek(position);
      const auto batch = *sampler.next(5);
      ASSERT_TRUE(std::equal(batch.begin(), batch.end(), order.begin() + static_cast<std::ptrdiff_t>(position)))
          << name_of(shape) << " at " << position;
    }
    sampler.seek(shape.size);
    EXPECT_FALSE(sampler.next(1).has_value());
    EXPECT_THROW(sampler.seek(shape.size + 1), c10::Error);
  }
}

TEST(BlockShuffleSampler, UsesAWindowOfBlocksAtATime) {
  constexpr std::size_t kBlock = 50;
  constexpr std::size_t kWindow = 8;
  BlockShuffleSampler sampler(100 * kBlock, {.block_size = kBlock, .window_blocks = kWindow, .seed = 2});
  std::vector<std::set<std::size_t>> windows;
  while (auto window = sampler.next(kBlock * kWindow)) {
    std::set<std::size_t> blocks;
    for (const std::size_t index : *window) {
      blocks.insert(index / kBlock);
    }
    EXPECT_EQ(blocks.size(), window->size() / kBlock);
    EXPECT_GT(*blocks.rbegin() - *blocks.begin(), 20U) << "they come from all over the data";
    // A batch of 32 is of nearly all of them.
    std::set<std::size_t> of_batch;
    for (std::size_t i = 0; i < 32; ++i) {
      of_batch.insert((*window)[i] / kBlock);
    }
    EXPECT_GE(of_batch.size() + 2, blocks.size());
    windows.push_back(blocks);
  }
  EXPECT_EQ(windows.size(), 13U);
  sampler.reset();
  const auto again = *sampler.next(kBlock * kWindow);
  EXPECT_FALSE(std::all_of(again.begin(), again.end(), [&](std::size_t i) { return windows[0].count(i / kBlock) > 0; }))
      << "other blocks meet in the next epoch";
}

TEST(BlockShuffleSampler, PutsEachIndexAtEachPositionEquallyOften) {
  constexpr std::size_t kEpochs = 40'000;
  for (const Shape& shape : std::vector<Shape>{{16, 4, 2}, {20, 5, 1}, {24, 2, 5}}) {
    std::vector<std::size_t> counts(shape.size * shape.size);
    auto sampler = make(shape, 11);
    for (std::size_t epoch = 0; epoch < kEpochs; ++epoch, sampler.reset()) {
      const auto order = *sampler.next(shape.size);
      for (std::size_t position = 0; position < shape.size; ++position) {
        ++counts[position * shape.size + order[position]];
      }
    }
    // Cell by cell: those of a block are not independent of each other, as a chi-square would have them.
    const auto most = static_cast<double>(*std::max_element(counts.begin(), counts.end()));
    const auto least = static_cast<double>(*std::min_element(counts.begin(), counts.end()));
    const double expected = static_cast<double>(kEpochs) / static_cast<double>(shape.size);
    const double deviation = std::sqrt(expected);
    EXPECT_LT(most, expected + 5 * deviation) << name_of(shape);
    EXPECT_GT(least, expected - 5 * deviation) << name_of(shape);
  }
}

TEST(BlockShuffleSampler, PutsTheShortBlockAnywhere) {
  // The last 3 of 23 are a block of their own.
  BlockShuffleSampler sampler(23, {.block_size = 5, .window_blocks = 1, .seed = 4});
  std::vector<std::size_t> counts(5);
  for (int epoch = 0; epoch < 20'000; ++epoch, sampler.reset()) {
    const auto order = *sampler.next(23);
    const auto at = std::find(order.begin(), order.end(), 22U) - order.begin();
    ++counts[static_cast<std::size_t>(at) / 5];
  }
  EXPECT_LT(chi_square(counts), chi_square_limit(4));
}

TEST(BlockShuffleSampler, GivesTheSameOrderOnEveryMachine) {
  BlockShuffleSampler sampler(22, {.block_size = 4, .window_blocks = 2, .seed = 42});
  EXPECT_EQ(rest_of_epoch(sampler),
            (std::vector<std::size_t>{20, 11, 8, 10, 21, 9, 2, 0, 1, 6, 3, 7, 4, 5, 19, 15, 13, 17, 16, 12, 14, 18}));
}

TEST(BlockShuffleSampler, GoesOnInMidEpochAfterSaveAndLoad) {
  BlockShuffleSampler sampler(1003, {.block_size = 10, .window_blocks = 7, .seed = 1});
  sampler.reset();
  sampler.next(321);
  BlockShuffleSampler other(5);
  copy_state(sampler, other);
  EXPECT_EQ(other.block_size(), 10U);
  EXPECT_EQ(other.window_blocks(), 7U);
  EXPECT_EQ(other.index(), 321U);
  EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
  sampler.reset();
  other.reset();
  EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
}

TEST(BlockShuffleSampler, RefusesWhatDoesNotFitAndStaysAsItWas) {
  BlockShuffleSampler sampler(100, {.block_size = 10, .window_blocks = 3, .seed = 1});
  auto same = sampler;
  EXPECT_THROW(copy_state(ShuffleSampler(100, 1), sampler), c10::Error);
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
  EXPECT_THAT(message_of([] { BlockShuffleSampler(10, {.block_size = 0}); }),
              HasSubstr("BlockShuffleSampler: block_size: expected 1 or above, got 0"));
  EXPECT_THAT(message_of([] { BlockShuffleSampler(10, {.window_blocks = 0}); }),
              HasSubstr("BlockShuffleSampler: window_blocks: expected 1 or above, got 0"));
  EXPECT_THROW(BlockShuffleSampler sampler(kHuge), c10::Error);
}

TEST(BlockShuffleSampler, TakesATrillionIndicesAndNewSizes) {
  BlockShuffleSampler sampler(1'000'000'000'003, {.seed = 4});
  sampler.seek(1'000'000'000'000);
  EXPECT_EQ(rest_of_epoch(sampler).size(), 3U);
  sampler.seek(500'000'000'000);
  const auto batch = *sampler.next(1000);
  EXPECT_EQ(std::set<std::size_t>(batch.begin(), batch.end()).size(), 1000U);
  sampler.reset(10'000);
  EXPECT_EQ(sorted(rest_of_epoch(sampler)), counting_up(10'000));
}

// ---- How good a shuffle is ----

TEST(ShuffleQuality, OfAnOrderWorkedByHand) {
  // Distances 2, 0, 2, 0 of a mean of 15 / 12; from the mean -1.5 these are 0.5, -0.5, -1.5, 1.5 of a variance 1.25;
  // means of batches 0 and 0.
  const std::vector<std::size_t> order{2, 1, 0, 3};
  const auto quality = measure_shuffle_quality(order, 2);
  EXPECT_DOUBLE_EQ(quality.displacement, 0.8);
  EXPECT_DOUBLE_EQ(quality.serial_correlation, (0.5 * -0.5 + -0.5 * -1.5 + -1.5 * 1.5) / 3 / 1.25);
  EXPECT_DOUBLE_EQ(quality.batch_variance, 0);
  // Means of batches -1 and 1; of a shuffle 1.25 / 2 * 2 / 3.
  EXPECT_DOUBLE_EQ(measure_shuffle_quality(std::vector<std::size_t>{0, 1, 2, 3}, 2).batch_variance, 2.4);
  EXPECT_EQ(measure_shuffle_quality({}, 2).displacement, 0);
  EXPECT_THROW(measure_shuffle_quality(order, 0), c10::Error);
}

TEST(ShuffleQuality, TellsAShuffleFromOrder) {
  const auto in_order = measure_shuffle_quality(counting_up(100'000), 32);
  EXPECT_EQ(in_order.displacement, 0);
  EXPECT_NEAR(in_order.serial_correlation, 1, 1e-3);
  EXPECT_NEAR(in_order.batch_variance, 32, 0.1);
  ShuffleSampler sampler(100'000, 1);
  const auto shuffled = measure_shuffle_quality(*sampler.next(100'000), 32);
  EXPECT_NEAR(shuffled.displacement, 1, 0.01);
  EXPECT_NEAR(shuffled.serial_correlation, 0, 0.01);
  EXPECT_NEAR(shuffled.batch_variance, 1, 0.1);
}

TEST(ShuffleQuality, OfBlocksGrowsWithTheWindow) {
  constexpr std::size_t kSize = 2'000'000;
  double before = 1;
  for (const std::size_t window : {1, 4, 16, 64}) {
    BlockShuffleSampler sampler(kSize, {.block_size = 500, .window_blocks = window, .seed = 6});
    const auto quality = measure_shuffle_quality(*sampler.next(kSize), 32);
    const double chance = 1.0 / static_cast<double>(window);  // that the next is of the same block
    EXPECT_NEAR(quality.displacement, 1, 0.1) << window;
    EXPECT_NEAR(quality.serial_correlation, chance, 0.05) << window;
    EXPECT_NEAR(quality.batch_variance, 1 + 31 * chance, 0.15 * (1 + 31 * chance)) << window;
    EXPECT_LT(quality.serial_correlation, before) << window;
    before = quality.serial_correlation;
  }
}

}  // namespace
}  // namespace torchfeed::samplers
