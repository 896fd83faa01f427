// Draws in proportion to weights, with and without replacement.
#include <torchfeed/samplers/shuffle_sampler.h>
#include <torchfeed/samplers/weighted_random_sampler.h>

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
using Weights = std::vector<double>;

constexpr std::size_t kDraws = 300'000;

std::vector<std::size_t> draw(const Weights& weights, std::size_t num_samples, std::uint64_t seed = 3) {
  WeightedRandomSampler sampler(weights, {.num_samples = num_samples, .seed = seed});
  return *sampler.next(num_samples);
}

std::vector<std::size_t> count(const std::vector<std::size_t>& indices, std::size_t size) {
  std::vector<std::size_t> counts(size);
  for (const std::size_t index : indices) {
    ++counts.at(index);
  }
  return counts;
}

TEST(WeightedRandomSampler, DrawsInProportionToTheWeights) {
  Weights decreasing;
  for (int i = 0; i < 1000; ++i) {
    decreasing.push_back(1.0 / (i + 1));
  }
  for (const Weights& weights : std::vector<Weights>{{1, 1},
                                                     {1, 2, 3, 4},
                                                     {0.7, 0.1, 0.1, 0.05, 0.05},
                                                     Weights(37, 0.25),
                                                     {1e-300, 3e-300},
                                                     {1e308, 1e308, 1.7e308},
                                                     decreasing}) {
    const auto counts = count(draw(weights, kDraws), weights.size());
    EXPECT_LT(chi_square(counts, weights), chi_square_limit(static_cast<double>(weights.size()) - 1))
        << weights.size() << " weights";
  }
}

TEST(WeightedRandomSampler, DrawsEachIndependentlyOfTheOneBefore) {
  const Weights weights{4, 3, 2, 1};
  const auto indices = draw(weights, kDraws);
  std::vector<std::size_t> counts(16);
  Weights shares(16);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    counts[indices[i] * 4 + indices[(i + 1) % indices.size()]]++;
  }
  for (std::size_t i = 0; i < 16; ++i) {
    shares[i] = weights[i / 4] * weights[i % 4];
  }
  EXPECT_LT(chi_square(counts, shares), chi_square_limit(15));
}

TEST(WeightedRandomSampler, NeverDrawsAWeightOfZero) {
  const auto counts = count(draw({0, 1, 0, 0, 1e-9, -0.0}, kDraws), 6);
  EXPECT_EQ(counts[1] + counts[4], kDraws);
  EXPECT_EQ(count(draw({0, 0, 5e-324}, 100), 3)[2], 100U);
  EXPECT_EQ(count(draw({7}, 100), 1)[0], 100U);
  WeightedRandomSampler sampler(Weights{0, 1, 0, 2}, {.num_samples = 2, .replacement = false, .seed = 1});
  EXPECT_EQ(sorted(rest_of_epoch(sampler)), (std::vector<std::size_t>{1, 3}));
}

TEST(WeightedRandomSampler, DrawsWithoutReplacementByTheWeightsThatAreLeft) {
  const Weights weights{8, 4, 2, 1, 1};
  const double total = 16;
  std::vector<std::size_t> counts(25);
  Weights shares(25);
  for (std::size_t i = 0; i < 25; ++i) {
    const double first = weights[i / 5];
    shares[i] = i / 5 == i % 5 ? 0 : first / total * weights[i % 5] / (total - first);
  }
  WeightedRandomSampler sampler(weights, {.num_samples = 2, .replacement = false, .seed = 3});
  for (std::size_t epoch = 0; epoch < kDraws; ++epoch, sampler.reset()) {
    const auto pair = *sampler.next(2);
    ++counts[pair[0] * 5 + pair[1]];
  }
  for (std::size_t i = 5; i-- > 0;) {  // none is drawn twice
    ASSERT_EQ(counts[i * 6], 0U);
    counts.erase(counts.begin() + static_cast<std::ptrdiff_t>(i * 6));
    shares.erase(shares.begin() + static_cast<std::ptrdiff_t>(i * 6));
  }
  EXPECT_LT(chi_square(counts, shares), chi_square_limit(19));
}

TEST(WeightedRandomSampler, DrawsAllOnceIfAsManyAreAskedForWithoutReplacement) {
  Weights weights;
  for (int i = 0; i < 1000; ++i) {
    weights.push_back(i < 500 ? 1000 : 1);
  }
  WeightedRandomSampler sampler(weights, {.replacement = false, .seed = 3});
  const auto order = rest_of_epoch(sampler);
  EXPECT_EQ(sorted(order), counting_up(1000));
  const auto heavy = std::count_if(order.begin(), order.begin() + 500, [](std::size_t index) { return index < 500; });
  EXPECT_GT(heavy, 490) << "the heavy ones come first";
  sampler.reset();
  const auto other = rest_of_epoch(sampler);
  EXPECT_EQ(sorted(other), counting_up(1000));
  EXPECT_NE(other, order);
}

TEST(WeightedRandomSampler, DrawsTheSameOnEveryMachine) {
  EXPECT_EQ(draw({1, 2, 3, 4}, 12, 42), (std::vector<std::size_t>{3, 1, 2, 2, 0, 3, 2, 3, 3, 3, 2, 1}));
  WeightedRandomSampler sampler(Weights{1, 2, 3, 4, 5, 6, 7, 8}, {.replacement = false, .seed = 42});
  EXPECT_EQ(rest_of_epoch(sampler), (std::vector<std::size_t>{5, 6, 2, 3, 7, 0, 1, 4}));
}

TEST(WeightedRandomSampler, TakesItsLogarithmsFromNoLibrary) {
  double worst = 0;
  for (double u = 1; u > 1e-16; u *= 0.9993) {
    for (const double near : {u, 1 - u}) {
      if (near > 0 && near < 1) {
        worst = std::max(worst, std::abs(detail::negative_log(near) / -std::log(near) - 1));
      }
    }
  }
  EXPECT_LT(worst, 1e-15);
  EXPECT_EQ(detail::negative_log(1), 0);
}

TEST(WeightedRandomSampler, SeeksToAnyDraw) {
  for (const bool replacement : {true, false}) {
    WeightedRandomSampler sampler(Weights(1000, 1), {.replacement = replacement, .seed = 3});
    const auto order = rest_of_epoch(sampler);
    for (const std::size_t position : {999U, 0U, 500U}) {
      sampler.seek(position);
      EXPECT_EQ(sampler.next(1)->front(), order[position]);
    }
  }
  WeightedRandomSampler endless(Weights{1, 2}, {.num_samples = 1'000'000'000'000, .seed = 3});
  endless.seek(999'999'999'998);
  EXPECT_EQ(rest_of_epoch(endless).size(), 2U);
}

TEST(WeightedRandomSampler, GoesOnInMidEpochAfterSaveAndLoad) {
  const Weights weights{5, 1, 2, 8, 1, 1, 4, 0};
  for (const bool replacement : {true, false}) {
    WeightedRandomSampler sampler(weights, {.num_samples = 7, .replacement = replacement, .seed = 3});
    sampler.reset();
    sampler.next(3);
    WeightedRandomSampler other(weights, {.num_samples = 5, .replacement = replacement, .seed = 4});
    other.next(2);
    copy_state(sampler, other);
    EXPECT_EQ(other.size(), 7U);
    EXPECT_EQ(other.index(), 3U);
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
    sampler.reset();
    other.reset();
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
  }
}

TEST(WeightedRandomSampler, TakesANewNumberOfDrawsAtReset) {
  WeightedRandomSampler sampler(Weights{1, 2, 3, 0}, {.num_samples = 2, .replacement = false, .seed = 3});
  sampler.reset(3);
  EXPECT_EQ(rest_of_epoch(sampler).size(), 3U);
  EXPECT_THROW(sampler.reset(4), c10::Error);
  sampler.reset(0);
  EXPECT_FALSE(sampler.next(1).has_value());
}

TEST(WeightedRandomSampler, TellsWhatIsWrongWithWeights) {
  const auto refusal = [](const Weights& weights, const WeightedRandomOptions& options = {}) {
    return message_of([&] { WeightedRandomSampler(weights, options); });
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::string wanted = "WeightedRandomSampler: expected finite weights of 0 and above, got ";
  EXPECT_THAT(refusal({1, 2, -0.5}), HasSubstr(wanted + "-0.5 at 2"));
  EXPECT_THAT(refusal({1, kNan}), HasSubstr(wanted + "nan at 1"));
  EXPECT_THAT(refusal({kInfinity}), HasSubstr(wanted + "inf at 0"));
  EXPECT_THAT(refusal({0, 0, 0}), HasSubstr("expected at least one weight above 0, got 3 of 0"));
  EXPECT_THAT(refusal({}), HasSubstr("expected at least one weight, got none"));
  EXPECT_THAT(refusal({1, 0, 2}, {.replacement = false}),
              HasSubstr("expected at least 3 weights above 0 for as many draws without replacement, got 2"));
  EXPECT_EQ(refusal({1, 0, 2}, {.num_samples = 2, .replacement = false}), "");
}

TEST(WeightedRandomSampler, RefusesTheStateOfOtherWeightsAndStaysAsItWas) {
  const WeightedRandomOptions options{.num_samples = 50, .seed = 3};
  WeightedRandomSampler sampler(Weights{1, 2, 3}, options);
  auto same = sampler;
  EXPECT_THAT(message_of([&] {
                copy_state(WeightedRandomSampler(Weights{1, 2, 4}, options), sampler);
              }),
              HasSubstr("WeightedRandomSampler: expected the state of one with weights of the hash"));
  EXPECT_THROW(copy_state(WeightedRandomSampler(Weights{1, 2, 3}, {.replacement = false}), sampler), c10::Error);
  EXPECT_THROW(copy_state(ShuffleSampler(3), sampler), c10::Error);
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
}

TEST(WeightedRandomSampler, TakesItsSeedFromTorchsGenerator) {
  const auto order = [](std::uint64_t seed) {
    torch::manual_seed(seed);
    WeightedRandomSampler sampler(Weights{1, 2, 3}, {.num_samples = 50});
    return rest_of_epoch(sampler);
  };
  EXPECT_EQ(order(9), order(9));
  EXPECT_NE(order(9), order(10));
}

}  // namespace
}  // namespace torchfeed::samplers
