#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torchfeed/samplers/keyed_permutation.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>
#include <vector>

namespace torchfeed::samplers {
namespace {

std::vector<size_t> rest_of_epoch(ShuffleSampler& sampler, size_t batch_size = 7) {
  std::vector<size_t> all;
  while (auto batch = sampler.next(batch_size)) all.insert(all.end(), batch->begin(), batch->end());
  return all;
}

void copy_state(const ShuffleSampler& from, ShuffleSampler& to) {
  torch::serialize::OutputArchive out;
  from.save(out);
  std::stringstream stream;
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  to.load(in);
}

/// Five standard deviations above the mean of a chi-square distribution: one chance in millions for a fair source.
double chi_square_limit(double degrees_of_freedom) {
  return degrees_of_freedom + 5 * std::sqrt(2 * degrees_of_freedom);
}

double chi_square(const std::vector<size_t>& counts) {
  const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), size_t{0}));
  const double expected = total / static_cast<double>(counts.size());
  double sum = 0;
  for (size_t count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

TEST(ShuffleSampler, GivesEveryIndexOnceWhateverTheSize) {
  std::vector<size_t> sizes{1000, 99991, 100003};
  for (size_t size = 0; size <= 130; ++size) sizes.push_back(size);
  for (size_t power = 256; power <= 65536; power *= 2) sizes.insert(sizes.end(), {power - 1, power, power + 1});
  for (size_t size : sizes) {
    ShuffleSampler sampler(size, 3);
    for (int epoch = 0; epoch < 3; ++epoch) {
      auto indices = rest_of_epoch(sampler);
      std::sort(indices.begin(), indices.end());
      std::vector<size_t> expected(size);
      std::iota(expected.begin(), expected.end(), size_t{0});
      ASSERT_EQ(indices, expected) << "size " << size << ", epoch " << epoch;
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
            (std::vector<size_t>{2, 9, 13, 18, 19, 14, 5, 12, 10, 11, 8, 0, 17, 1, 3, 6, 7, 4, 16, 15}));
  sampler.reset();
  EXPECT_EQ(rest_of_epoch(sampler),
            (std::vector<size_t>{6, 7, 19, 4, 11, 8, 16, 3, 17, 2, 0, 1, 5, 13, 9, 10, 12, 18, 14, 15}));
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

TEST(ShuffleSampler, LeavesNoTraceOfTheOrderBetweenNeighbours) {
  constexpr size_t kSize = 1'000'000;
  constexpr size_t kBuckets = 64;
  std::vector<size_t> differences(kBuckets);
  ShuffleSampler sampler(kSize, 1);
  const auto order = *sampler.next(kSize);
  for (size_t i = 0; i + 1 < kSize; ++i) ++differences[(order[i + 1] + kSize - order[i]) % kSize * kBuckets / kSize];
  EXPECT_LT(chi_square(differences), chi_square_limit(kBuckets - 1));
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
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
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
  auto indices = rest_of_epoch(sampler);
  std::sort(indices.begin(), indices.end());
  EXPECT_EQ(indices, (std::vector<size_t>{0, 1, 2}));
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

TEST(KeyedPermutation, IsInvertibleAtTheLargestSizes) {
  for (uint64_t size : {uint64_t{1} << 32, (uint64_t{1} << 62) + 12345, uint64_t{1} << 63}) {
    const KeyedPermutation permutation(size, 1);
    std::map<uint64_t, uint64_t> seen;
    for (uint64_t i = 0; i < 1000; ++i) {
      const uint64_t index = i % 2 == 0 ? i : size - i;
      const uint64_t image = permutation(index);
      EXPECT_LT(image, size);
      EXPECT_TRUE(seen.emplace(image, index).second) << index << " and " << seen[image] << " of " << size;
    }
  }
}

}  // namespace
}  // namespace torchfeed::samplers
