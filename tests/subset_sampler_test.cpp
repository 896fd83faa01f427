// Given indices and ranges, and the folds that they come from.
#include <torchfeed/samplers/shuffle_sampler.h>
#include <torchfeed/samplers/subset_sampler.h>
#include <torchfeed/samplers/walk_forward.h>

#include "support/sampler_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

namespace torchfeed::samplers {
namespace {

using testing::copy_state;
using ::testing::HasSubstr;
using testing::message_of;
using testing::rest_of_epoch;
using testing::sorted;
using Indices = std::vector<std::size_t>;

TEST(SubsetSampler, GivesItsIndicesInOrderOrShuffled) {
  const Indices indices{9, 3, 3, 100, 7, 42, 0};
  SubsetSampler in_order(indices);
  SubsetSampler shuffled(indices, {.shuffle = true, .seed = 1});
  std::set<Indices> orders;
  for (int epoch = 0; epoch < 5; ++epoch) {
    EXPECT_EQ(rest_of_epoch(in_order, 3), indices);
    const auto order = rest_of_epoch(shuffled, 3);
    EXPECT_EQ(sorted(order), sorted(indices));
    orders.insert(order);
    in_order.reset();
    shuffled.reset();
  }
  EXPECT_EQ(orders.size(), 5U);
}

TEST(SubsetSampler, GivesARangeAsItsIndices) {
  SubsetSampler range(IndexRange{10, 15});
  EXPECT_EQ(rest_of_epoch(range), (Indices{10, 11, 12, 13, 14}));
  SubsetSampler shuffled_range(IndexRange{10, 15}, {.shuffle = true, .seed = 1});
  SubsetSampler shuffled_indices(Indices{10, 11, 12, 13, 14}, {.shuffle = true, .seed = 1});
  EXPECT_EQ(rest_of_epoch(shuffled_range), rest_of_epoch(shuffled_indices));
  EXPECT_FALSE(SubsetSampler(IndexRange{3, 3}).next(1).has_value());
  EXPECT_FALSE(SubsetSampler(Indices{}).next(1).has_value());
  EXPECT_THAT(message_of([] {
                SubsetSampler(IndexRange{4, 3});
              }),
              HasSubstr("SubsetSampler: expected a range of 0 to 2^63 indices, got [4, 3)"));
}

TEST(SubsetSampler, StoresNothingOfARange) {
  SubsetSampler sampler(IndexRange{5, 1'000'000'000'005}, {.shuffle = true, .seed = 1});
  sampler.seek(999'999'999'999);
  const auto last = *sampler.next(10);
  ASSERT_EQ(last.size(), 1U);
  EXPECT_GE(last[0], 5U);
  EXPECT_LT(last[0], 1'000'000'000'005U);
}

TEST(SubsetSampler, SeeksAndGoesOnAfterSaveAndLoad) {
  Indices indices;
  for (std::size_t i = 0; i < 500; ++i) {
    indices.push_back(i * i);
  }
  for (const bool shuffle : {true, false}) {
    SubsetSampler sampler(indices, {.shuffle = shuffle, .seed = 1});
    sampler.reset();
    const auto order = rest_of_epoch(sampler);
    sampler.seek(123);
    EXPECT_EQ(sampler.next(1)->front(), order[123]);
    SubsetSampler other(indices, {.shuffle = shuffle, .seed = 2});
    copy_state(sampler, other);
    EXPECT_EQ(other.index(), 124U);
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
    sampler.reset();
    other.reset();
    EXPECT_EQ(rest_of_epoch(other), rest_of_epoch(sampler));
  }
}

TEST(SubsetSampler, RefusesTheStateOfOtherIndicesAndOtherSizes) {
  SubsetSampler sampler(Indices{1, 2, 3}, {.shuffle = true, .seed = 1});
  auto same = sampler;
  const SubsetOptions shuffled{.shuffle = true, .seed = 1};
  EXPECT_THAT(message_of([&] {
                copy_state(SubsetSampler(Indices{1, 2, 4}, shuffled), sampler);
              }),
              HasSubstr("SubsetSampler: expected the state of one with indices of the hash"));
  EXPECT_THAT(message_of([&] {
                copy_state(SubsetSampler(Indices{1, 2}, shuffled), sampler);
              }),
              HasSubstr("expected the state of one with a number of indices of 3, got one with 2"));
  EXPECT_THROW(copy_state(SubsetSampler(Indices{1, 2, 3}), sampler), c10::Error);
  EXPECT_THROW(copy_state(ShuffleSampler(3, 1), sampler), c10::Error);
  EXPECT_THAT(message_of([&] { sampler.reset(4); }),
              HasSubstr("SubsetSampler: reset: expected no new size, as there are 3 indices, got 4"));
  EXPECT_EQ(rest_of_epoch(sampler), rest_of_epoch(same));
  sampler.reset(3);
  EXPECT_EQ(sampler.epoch(), 1U);
}

// ---- Folds ----

std::vector<Fold> folds_of(std::size_t size, const WalkForwardOptions& options) {
  const WalkForward folds(size, options);
  EXPECT_EQ(folds.size(), WalkForward::most_folds(size, options));
  return {folds.begin(), folds.end()};
}

TEST(WalkForward, RollsATrainingWindowAlongWithTests) {
  EXPECT_EQ(folds_of(22, {.train = 10, .test = 4}),
            (std::vector<Fold>{{{0, 10}, {10, 14}}, {{4, 14}, {14, 18}}, {{8, 18}, {18, 22}}}));
  // What does not fill a test is left out at the beginning.
  EXPECT_EQ(folds_of(25, {.train = 10, .test = 4}).front(), (Fold{{3, 13}, {13, 17}}));
}

TEST(WalkForward, LetsTrainingGrow) {
  EXPECT_EQ(folds_of(23, {.train = 10, .test = 4, .expanding = true}),
            (std::vector<Fold>{{{0, 11}, {11, 15}}, {{0, 15}, {15, 19}}, {{0, 19}, {19, 23}}}));
}

TEST(WalkForward, LeavesOutWhatIsPurgedAndEmbargoed) {
  EXPECT_EQ(folds_of(22, {.train = 10, .test = 4, .purge = 3, .embargo = 1}),
            (std::vector<Fold>{{{0, 10}, {14, 18}}, {{4, 14}, {18, 22}}}));
  EXPECT_EQ(folds_of(22, {.train = 10, .test = 4, .purge = 1, .embargo = 3, .expanding = true}),
            (std::vector<Fold>{{{0, 10}, {14, 18}}, {{0, 14}, {18, 22}}}));
}

TEST(WalkForward, PurgedByWindowAndHorizonLeavesNoRowThatBothSidesSee) {
  constexpr std::size_t kLength = 5;
  constexpr std::size_t kHorizon = 3;
  // Sample i has the rows [i, i + kLength), and its target is of row i + kLength - 1 + kHorizon.
  const auto last_row = [](std::size_t sample) { return sample + kLength - 1 + kHorizon; };
  std::size_t folds = 0;
  for (const Fold& fold : WalkForward(1000, {.train = 100, .test = 50, .purge = kLength + kHorizon - 1})) {
    EXPECT_EQ(last_row(fold.train.end - 1) + 1, fold.test.begin);
    ++folds;
  }
  EXPECT_EQ(folds, 17U);
}

TEST(WalkForward, GivesAsManyFoldsAsAskedForAtTheEnd) {
  const WalkForward folds(1000, {.train = 100, .test = 50, .folds = 2});
  ASSERT_EQ(folds.size(), 2U);
  EXPECT_EQ(folds[0], (Fold{{800, 900}, {900, 950}}));
  EXPECT_EQ(folds[1], (Fold{{850, 950}, {950, 1000}}));
}

TEST(WalkForward, TellsHowManySamplesItNeeds) {
  const auto refusal = [](std::size_t size, const WalkForwardOptions& options) {
    return message_of([&] { WalkForward(size, options); });
  };
  const WalkForwardOptions options{.train = 100, .test = 50, .folds = 2, .purge = 3, .embargo = 4};
  EXPECT_THAT(refusal(206, options),
              HasSubstr("WalkForward: expected at least 207 samples for 2 folds of 100 to train, "
                        "3 purged, 4 embargoed and 50 to test, got 206"));
  EXPECT_EQ(refusal(207, options), "");
  EXPECT_THAT(refusal(0, {.train = 1, .test = 1}), HasSubstr("expected at least 2 samples for 1 folds"));
  EXPECT_THAT(refusal(10, {.test = 1}), HasSubstr("WalkForward: train: expected 1 sample or more, got 0"));
  EXPECT_THAT(refusal(10, {.train = 1}), HasSubstr("WalkForward: test: expected 1 sample or more, got 0"));
}

}  // namespace
}  // namespace torchfeed::samplers
