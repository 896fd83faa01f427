// The shuffle of one process and of several ranks, and the permutation below both.
#include <torchfeed/samplers/distributed_shuffle_sampler.h>
#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include "support/sampler_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <utility>
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

TEST(ShuffleSampler, GivesEveryIndexOnceWhateverTheSize) {
  std::vector<size_t> sizes{1000, 99991, 100003};
  for (size_t size = 0; size <= 130; ++size) sizes.push_back(size);
  for (size_t power = 256; power <= 65536; power *= 2) sizes.insert(sizes.end(), {power - 1, power, power + 1});
  for (size_t size : sizes) {
    ShuffleSampler sampler(size, 3);
    for (int epoch = 0; epoch < 3; ++epoch) {
      ASSERT_EQ(sorted(rest_of_epoch(sampler)), counting_up(size)) << "size " << size << ", epoch " << epoch;
      sampler.reset();
    }
  }
}

TEST(ShuffleSampler, CutsTheEpochIntoBatchesAndThenIsEmpty) {
  ShuffleSampler sampler(10, 1);
  EXPECT_EQ(sampler.next(4)->size(), 4U);
  EXPECT_EQ(sampler.index(), 4U);
  EXPECT_EQ(sampler.next(4)->size(), 4U);
  EXPECT_EQ(sampler.next(4)->size(), 2U);
  EXPECT_FALSE(sampler.next(4).has_value());
  EXPECT_EQ(sampler.index(), 10U);
  sampler.reset();
  EXPECT_EQ(sampler.index(), 0U);
  EXPECT_EQ(sampler.next(std::numeric_limits<size_t>::max())->size(), 10U);
}

TEST(ShuffleSampler, GivesTheSameOrderOnEveryMachine) {
  ShuffleSampler sampler(20, 42);
  EXPECT_EQ(rest_of_epoch(sampler),
            (std::vector<size_t>{9, 2, 16, 0, 11, 19, 8, 7, 13, 15, 3, 4, 12, 1, 10, 18, 6, 5, 17, 14}));
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler),
            (std::vector<size_t>{5, 10, 17, 3, 13, 14, 7, 1, 6, 19, 2, 16, 4, 0, 9, 11, 18, 8, 15, 12}));
  ShuffleSampler larger(100, 42);
  EXPECT_EQ(*larger.next(20),
            (std::vector<size_t>{47, 84, 48, 83, 65, 16, 62, 59, 24, 41, 77, 4, 14, 43, 35, 31, 20, 95, 13, 9}));
  ShuffleSampler huge(1'000'000'000'000, 42);
  EXPECT_EQ(*huge.next(3), (std::vector<size_t>{375022754828, 589419735798, 506412408000}));
}

TEST(ShuffleSampler, HasAnotherOrderInEachEpochAndForEachSeed) {
  std::map<std::vector<size_t>, int> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ShuffleSampler sampler(50, seed);
    for (int epoch = 0; epoch < 20; ++epoch) {
      EXPECT_EQ(++seen[rest_of_epoch(sampler)], 1) << "seed " << seed << ", epoch " << epoch;
      sampler.reset();
    }
  }
}

TEST(ShuffleSampler, PutsEachIndexAtEachPositionEquallyOften) {
  for (size_t size : {2U, 3U, 5U, 16U, 33U, 100U}) {
    constexpr size_t kEpochs = 20000;
    std::vector<size_t> counts(size * size);
    ShuffleSampler sampler(size, 11);
    for (size_t epoch = 0; epoch < kEpochs; ++epoch, sampler.reset()) {
      const auto order = *sampler.next(size);
      for (size_t position = 0; position < size; ++position) ++counts[position * size + order[position]];
    }
    // Rows and columns have fixed sums, so (size - 1)^2 counts are free.
    EXPECT_LT(chi_square(counts), chi_square_limit(std::pow(size - 1, 2))) << "size " << size;
  }
}

TEST(ShuffleSampler, GivesEveryOrderOfFewIndicesEquallyOften) {
  for (size_t size : {3U, 4U, 5U, 6U, 7U}) {
    std::map<std::vector<size_t>, size_t> seen;
    ShuffleSampler sampler(size, 5);
    for (size_t epoch = 0; epoch < 100'000; ++epoch, sampler.reset()) ++seen[*sampler.next(size)];
    std::vector<size_t> counts;
    for (const auto& entry : seen) counts.push_back(entry.second);
    EXPECT_EQ(counts.size(), static_cast<size_t>(std::tgamma(size + 1)));
    EXPECT_LT(chi_square(counts), chi_square_limit(counts.size() - 1.0)) << "size " << size;
  }
}

TEST(ShuffleSampler, PutsEachPairOfIndicesAtAPairOfPositionsEquallyOften) {
  for (size_t size : {5U, 16U, 63U, 64U, 65U, 100U}) {
    for (const auto& [first, second] :
         std::vector<std::pair<size_t, size_t>>{{0, 1}, {0, size - 1}, {size / 2, size / 2 + 1}}) {
      std::vector<size_t> counts(size * size);
      for (uint64_t seed = 0; seed < 100'000; ++seed) {
        const KeyedPermutation permutation(size, seed);
        ++counts[permutation(first) * size + permutation(second)];
      }
      for (size_t index = size; index-- > 0;) {  // no index is at two positions
        ASSERT_EQ(counts[index * size + index], 0U);
        counts.erase(counts.begin() + static_cast<std::ptrdiff_t>(index * size + index));
      }
      EXPECT_LT(chi_square(counts), chi_square_limit(counts.size() - 1.0))
          << "size " << size << ", positions " << first << " and " << second;
    }
  }
}

TEST(ShuffleSampler, LeavesNoTraceOfTheOrderBetweenNeighbours) {
  constexpr size_t kSize = 1'000'000;
  constexpr size_t kBuckets = 64;
  std::vector<size_t> differences(kBuckets);
  ShuffleSampler sampler(kSize, 1);
  const auto order = *sampler.next(kSize);
  for (size_t i = 0; i + 1 < kSize; ++i) ++differences[(order[i + 1] + kSize - order[i]) % kSize * kBuckets / kSize];
  EXPECT_LT(chi_square(differences), chi_square_limit(kBuckets - 1));
}

// Of 10^12 and of 2^63 indices: whether a position tells of its index, and one index of the next. Positions that are a
// square root of the size apart have the same lower digit.
TEST(ShuffleSampler, SpreadsPositionsAndPairsEvenlyOverVeryManyIndices) {
  constexpr size_t kBuckets = 32;
  constexpr size_t kDraws = 200'000;
  for (const uint64_t size : {uint64_t{1'000'000'000'000}, uint64_t{1} << 63}) {
    const auto bucket = [&](uint64_t index) { return index / (size / kBuckets + 1); };
    const KeyedPermutation permutation(size, 7);
    const auto root = static_cast<uint64_t>(std::llround(std::sqrt(static_cast<double>(size))));
    for (const uint64_t step : {uint64_t{1}, root, uint64_t{1} << 32, size / kDraws}) {
      std::vector<size_t> images(std::min<uint64_t>(kDraws, size / step));
      permutation.map(0, step, images);
      std::vector<size_t> of_position(kBuckets * kBuckets);
      std::vector<size_t> of_pair(kBuckets * kBuckets);
      std::vector<size_t> of_difference(kBuckets);
      for (size_t i = 0; i < images.size(); ++i) {
        ++of_position[i * kBuckets / images.size() * kBuckets + bucket(images[i])];
        if (i > 0) ++of_pair[bucket(images[i - 1]) * kBuckets + bucket(images[i])];
        if (i > 0) ++of_difference[bucket((images[i] + size - images[i - 1]) % size)];
      }
      EXPECT_LT(chi_square(of_position), chi_square_limit(kBuckets * kBuckets - 1)) << size << " by " << step;
      EXPECT_LT(chi_square(of_pair), chi_square_limit(kBuckets * kBuckets - 1)) << size << " by " << step;
      EXPECT_LT(chi_square(of_difference), chi_square_limit(kBuckets - 1)) << size << " by " << step;
    }
  }
}

TEST(ShuffleSampler, TakesItsSeedFromTorchsGenerator) {
  torch::manual_seed(9);
  ShuffleSampler first(100);
  ShuffleSampler second(100);
  torch::manual_seed(9);
  ShuffleSampler again(100);
  const auto order = rest_of_epoch(first);
  EXPECT_EQ(order, rest_of_epoch(again));
  EXPECT_NE(order, rest_of_epoch(second));
}

TEST(ShuffleSampler, GoesOnInMidEpochAfterSaveAndLoad) {
  ShuffleSampler sampler(1000, std::numeric_limits<uint64_t>::max());
  sampler.reset();
  sampler.reset();
  sampler.next(321);
  ShuffleSampler other(3, 1);
  copy_state(sampler, other);
  EXPECT_EQ(other.size(), 1000U);
  EXPECT_EQ(other.epoch(), 2U);
  EXPECT_EQ(other.index(), 321U);
  EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
  sampler.reset();
  other.reset();
  EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
}

TEST(ShuffleSampler, RefusesAForeignArchiveAndStaysAsItWas) {
  torch::serialize::OutputArchive out;
  torch::data::samplers::RandomSampler(10).save(out);
  std::stringstream stream;
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  ShuffleSampler sampler(10, 1);
  ShuffleSampler same(10, 1);
  EXPECT_THROW(sampler.load(in), c10::Error);
  EXPECT_THAT(message_of([&] { copy_state(DistributedShuffleSampler(10), sampler); }),
              HasSubstr("ShuffleSampler: expected the archive of a ShuffleSampler, got that of a Distributed"));
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
}

TEST(ShuffleSampler, RefusesASizeThatItCannotPermute) {
  const size_t too_large = (size_t{1} << 63) + 1;
  EXPECT_THAT(message_of([&] { ShuffleSampler sampler(too_large, 1); }),
              HasSubstr("ShuffleSampler: expected a size of at most 2^63, got 9223372036854775809"));
  ShuffleSampler sampler(10, 1);
  EXPECT_THROW(sampler.reset(too_large), c10::Error);
  EXPECT_EQ(sampler.epoch(), 0U);
}

TEST(ShuffleSampler, SeeksToAnyPosition) {
  ShuffleSampler sampler(1000, 4);
  const auto order = rest_of_epoch(sampler);
  for (size_t position : {999U, 0U, 500U}) {
    sampler.seek(position);
    EXPECT_EQ(sampler.next(1)->front(), order[position]);
  }
  sampler.seek(1000);
  EXPECT_FALSE(sampler.next(1).has_value());
  EXPECT_THROW(sampler.seek(1001), c10::Error);
}

TEST(ShuffleSampler, TakesANewSizeAtReset) {
  ShuffleSampler sampler(10, 4);
  sampler.reset(3);
  EXPECT_EQ(sorted(rest_of_epoch(sampler)), counting_up(3));
  sampler.reset(0);
  EXPECT_FALSE(sampler.next(1).has_value());
}

// A stored permutation would need 8 TB here.
TEST(ShuffleSampler, TakesNoMemoryForATrillionIndices) {
  ShuffleSampler sampler(1'000'000'000'000, 4);
  for (int epoch = 0; epoch < 100; ++epoch, sampler.reset()) {
    sampler.seek(999'999'999'990);
    const auto indices = *sampler.next(100);
    EXPECT_EQ(indices.size(), 10U);
    EXPECT_LT(*std::max_element(indices.begin(), indices.end()), 1'000'000'000'000U);
  }
}

// ---- The permutation ----

const std::vector<uint64_t> kLargeSizes{999'999'999'989,         1'000'000'000'000,       (uint64_t{1} << 32) - 1,
                                        uint64_t{1} << 32,       (uint64_t{1} << 32) + 1, (uint64_t{1} << 62) + 12345,
                                        (uint64_t{1} << 63) - 1, uint64_t{1} << 63};

TEST(KeyedPermutation, IsUndoneByItsInverseAtTheLargestSizes) {
  for (uint64_t size : kLargeSizes) {
    const KeyedPermutation permutation(size, 1);
    for (uint64_t i = 0; i < 3000; ++i) {
      const uint64_t index = i % 3 == 0 ? i : i % 3 == 1 ? size - i : size / 3000 * i;
      const uint64_t image = permutation(index);
      ASSERT_LT(image, size);
      ASSERT_EQ(permutation.inverse(image), index) << "of " << size;
      ASSERT_EQ(permutation(permutation.inverse(index)), index) << "of " << size;
    }
  }
}

TEST(KeyedPermutation, MapsManyIndicesAsItMapsOne) {
  std::vector<uint64_t> sizes = kLargeSizes;
  for (uint64_t size = 1; size <= 70; ++size) sizes.push_back(size);
  for (uint64_t size : sizes) {
    const KeyedPermutation permutation(size, 3);
    for (uint64_t stride :
         {uint64_t{1}, uint64_t{2}, uint64_t{7}, uint64_t{1} << 31, size / 2, size / 9, size - 1, size}) {
      for (uint64_t count = 0; count <= 11; ++count) {
        for (uint64_t first : {uint64_t{0}, size / 3, size - 1}) {
          const uint64_t room = stride == 0 ? count : (size - 1 - first) / stride + 1;
          std::vector<size_t> images(std::min(count, room));
          permutation.map(first, stride, images);
          for (size_t i = 0; i < images.size(); ++i) {
            ASSERT_EQ(images[i], permutation(first + i * stride)) << size << ", " << first << " by " << stride;
          }
        }
      }
    }
  }
}

// ---- Several ranks ----

std::vector<DistributedShuffleSampler> all_ranks(size_t size, size_t ranks, bool padded, uint64_t seed) {
  std::vector<DistributedShuffleSampler> samplers;
  for (size_t rank = 0; rank < ranks; ++rank) samplers.emplace_back(size, ranks, rank, padded, seed);
  return samplers;
}

/// The ranks' indices in turn, as they train side by side.
std::vector<size_t> in_turn(std::vector<DistributedShuffleSampler>& samplers) {
  std::vector<std::vector<size_t>> orders;
  for (auto& sampler : samplers) {
    orders.push_back(rest_of_epoch(sampler));
    EXPECT_EQ(orders.back().size(), sampler.size());
    EXPECT_EQ(orders.back().size(), orders.front().size()) << "ranks would wait for each other";
  }
  std::vector<size_t> all;
  for (size_t i = 0; i < orders.front().size(); ++i) {
    for (const auto& order : orders) all.push_back(order[i]);
  }
  return all;
}

TEST(DistributedShuffleSampler, GivesEachIndexOnceOverAllRanksInTheOrderOfOne) {
  for (const auto& [size, ranks] : std::vector<std::pair<size_t, size_t>>{
           {0, 3}, {1, 1}, {1, 4}, {3, 4}, {4, 4}, {100, 1}, {100, 7}, {99, 3}, {1000, 16}, {1025, 8}}) {
    for (const bool padded : {true, false}) {
      auto samplers = all_ranks(size, ranks, padded, 5);
      ShuffleSampler one(size, 5);
      for (int epoch = 0; epoch < 3; ++epoch) {
        auto expected = rest_of_epoch(one);
        if (padded) {
          for (size_t i = 0; expected.size() % ranks != 0; ++i) expected.push_back(expected[i]);
        } else {
          expected.resize(size / ranks * ranks);
        }
        EXPECT_EQ(in_turn(samplers), expected) << size << " over " << ranks << ", padded " << padded;
        one.reset();
        for (auto& sampler : samplers) sampler.reset();
      }
    }
  }
}

TEST(DistributedShuffleSampler, DoesTheSameWithAnyNumberOfRanks) {
  const auto batches = [](size_t ranks) {
    auto samplers = all_ranks(960, ranks, true, 5);
    std::vector<std::vector<size_t>> all(960 / 96);
    for (auto& batch : all) {
      for (auto& sampler : samplers) {
        const auto part = *sampler.next(96 / ranks);
        batch.insert(batch.end(), part.begin(), part.end());
      }
      batch = sorted(batch);
    }
    return all;
  };
  const auto expected = batches(1);
  EXPECT_EQ(batches(2), expected);
  EXPECT_EQ(batches(8), expected);
}

TEST(DistributedShuffleSampler, HasTheOrderOfTheEpochThatWasSetOrElseOfTheNext) {
  const auto order_of = [](uint64_t epoch) {
    DistributedShuffleSampler sampler(50, 2, 1);
    sampler.set_epoch(epoch);
    sampler.reset();
    EXPECT_EQ(sampler.epoch(), epoch);
    return rest_of_epoch(sampler);
  };
  EXPECT_NE(order_of(0), order_of(1));
  DistributedShuffleSampler sampler(50, 2, 1);
  sampler.reset();  // as a loader does before the first epoch
  EXPECT_EQ(rest_of_epoch(sampler), order_of(0));
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler), order_of(1));
  sampler.set_epoch(1);
  EXPECT_FALSE(sampler.next(1).has_value()) << "not before reset";
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler), order_of(1)) << "again";
  torch::data::samplers::DistributedSampler<>& base = sampler;
  base.set_epoch(7);
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler), order_of(7));
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler), order_of(8));
  EXPECT_EQ(base.epoch(), 8U);
}

TEST(DistributedShuffleSampler, GoesOnInMidEpochAfterSaveAndLoad) {
  for (const bool was_set : {false, true}) {
    DistributedShuffleSampler sampler(1000, 3, 2, true, 5);
    sampler.set_epoch(4);
    sampler.reset();
    sampler.next(100);
    if (was_set) sampler.set_epoch(4);
    DistributedShuffleSampler other(3, 3, 2);
    copy_state(sampler, other);
    EXPECT_EQ(other.index(), 100U);
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
    sampler.reset();
    other.reset();
    EXPECT_EQ(other.epoch(), was_set ? 4U : 5U);
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
  }
}

TEST(DistributedShuffleSampler, RefusesWhatIsNotItsOwn) {
  DistributedShuffleSampler sampler(100, 3, 2);
  DistributedShuffleSampler same(100, 3, 2);
  EXPECT_THAT(message_of([&] { copy_state(DistributedShuffleSampler(100, 3, 1), sampler); }),
              HasSubstr("DistributedShuffleSampler: expected the state of one with rank 2, got one with 1"));
  EXPECT_THAT(message_of([&] { copy_state(DistributedShuffleSampler(100, 4, 2), sampler); }),
              HasSubstr("expected the state of one with a number of replicas of 3, got one with 4"));
  EXPECT_THROW(copy_state(DistributedShuffleSampler(100, 3, 2, false), sampler), c10::Error);
  EXPECT_THROW(copy_state(ShuffleSampler(100, 3), sampler), c10::Error);
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
  EXPECT_THAT(message_of([] { DistributedShuffleSampler(10, 3, 3); }),
              HasSubstr("expected a rank below the number of replicas 3, got 3"));
  EXPECT_THAT(message_of([] { DistributedShuffleSampler(10, 0, 0); }), HasSubstr("expected 1 to 2^63 replicas, got 0"));
}

TEST(DistributedShuffleSampler, SeeksAndTakesNewSizesInATrillionIndices) {
  DistributedShuffleSampler sampler(1'000'000'000'001, 1000, 999);
  EXPECT_EQ(sampler.size(), 1'000'000'001U);
  sampler.seek(999'999'999);
  const auto last = *sampler.next(100);
  ASSERT_EQ(last.size(), 2U);
  ShuffleSampler one(1'000'000'000'001, 0);
  one.seek(999'999'999'999);
  EXPECT_EQ(last[0], one.next(1)->front());
  one.seek(998);  // behind the end, it begins again
  EXPECT_EQ(last[1], one.next(1)->front());
  EXPECT_THROW(sampler.seek(1'000'000'002), c10::Error);
  sampler.reset(5000);
  EXPECT_EQ(rest_of_epoch(sampler).size(), 5U);
}

}  // namespace
}  // namespace torchfeed::samplers
