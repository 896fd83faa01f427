// A loader that goes on where another one was left: to the exact next batch, whoever makes the batches.
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::counting;
using testing::index_dataset;
using testing::kSettings;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::random_batch;
using testing::random_epochs;
using testing::Sequential;
using testing::Setting;
using testing::TensorDataset;

class Resume : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, Resume, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

/// Reads `taken` batches, saves the state through an archive, and reads the rest with another loader.
std::vector<std::int64_t> interrupted_epoch(const Setting& before, const Setting& after, int taken) {
  const auto options = [](const Setting& setting) { return options_of(setting, 7).seed(4); };
  using Random = torch::data::samplers::RandomSampler;
  std::vector<std::int64_t> indices;
  std::stringstream file;
  {
    torch::manual_seed(21);
    auto loader = make_data_loader<Random>(index_dataset(150), options(before));
    int batches = 0;
    for (auto& batch : *loader) {
      indices.insert(indices.end(), batch.data_ptr<std::int64_t>(), batch.data_ptr<std::int64_t>() + batch.numel());
      if (++batches == taken) {
        torch::save(loader->state(), file);
        break;
      }
    }
  }
  torch::manual_seed(99);
  LoaderState state;
  torch::load(state, file);
  auto loader = make_data_loader<Random>(index_dataset(150), options(after));
  loader->load_state(state);
  const auto rest = one_epoch_of_indices(*loader);
  indices.insert(indices.end(), rest.begin(), rest.end());
  return indices;
}

TEST_P(Resume, GoesOnInMidEpochWithAnotherNumberAndModeOfWorkers) {
  torch::manual_seed(21);
  auto undisturbed = make_data_loader(index_dataset(150), DataLoaderOptions(7).seed(4));
  const auto expected = one_epoch_of_indices(*undisturbed);
  for (const Setting& after : kSettings) {
    for (const int taken : {1, 10, 22}) {
      EXPECT_EQ(interrupted_epoch(GetParam(), after, taken), expected) << testing::name_of(after) << " " << taken;
    }
  }
}

TEST(ResumeState, ResumesRandomNumbersInMidEpoch) {
  const auto expected = random_epochs({}, 11, random_batch);
  auto loader =
      make_data_loader<Sequential>(TensorDataset(60, random_batch), DataLoaderOptions(7).num_workers(2).seed(11));
  one_epoch(*loader);
  auto iterator = loader->begin();
  ++iterator;
  const LoaderState state = loader->state();
  auto other = make_data_loader<Sequential>(TensorDataset(60, random_batch), DataLoaderOptions(7).num_workers(1));
  other->load_state(state);
  std::size_t position = expected.size() / 2 + 2;
  for (auto& batch : *other) {
    EXPECT_TRUE(torch::equal(batch, expected[position++]));
  }
  EXPECT_EQ(position, expected.size());
}

TEST(ResumeState, StartsTheNextEpochFromAStateBetweenEpochs) {
  auto loader = make_data_loader<Sequential>(index_dataset(30), DataLoaderOptions(10).num_workers(1).seed(1));
  one_epoch(*loader);
  const LoaderState state = loader->state();
  EXPECT_EQ(state.epoch, 1U);
  EXPECT_FALSE(state.in_epoch);
  auto other = make_data_loader<Sequential>(index_dataset(30), DataLoaderOptions(10).seed(1));
  other->load_state(state);
  EXPECT_EQ(one_epoch_of_indices(*other), counting(30));
  EXPECT_EQ(other->state().epoch, 2U);
}

TEST_P(Resume, ForgetsTheRestOfAResumedEpochWhenANewOneBegins) {
  LoaderState state;
  {
    auto loader = make_data_loader<Sequential>(index_dataset(100), DataLoaderOptions(10).num_workers(3).seed(1));
    auto iterator = loader->begin();
    ++iterator;
    state = loader->state();
  }
  auto loader = make_data_loader<Sequential>(index_dataset(100), options_of(GetParam(), 10));
  loader->load_state(state);
  EXPECT_EQ((*loader->begin())[0].item<std::int64_t>(), 20);
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(100));
}

TEST_P(Resume, KnowsItsPlaceAfterJoinAndHandsOutNoMore) {
  auto loader = make_data_loader<Sequential>(index_dataset(100), options_of(GetParam(), 10).seed(1));
  auto iterator = loader->begin();
  ++iterator;
  loader->join();
  EXPECT_THROW(++iterator, c10::Error);
  auto other = make_data_loader<Sequential>(index_dataset(100), DataLoaderOptions(10));
  other->load_state(loader->state());
  EXPECT_EQ((*other->begin())[0].item<std::int64_t>(), 20);
}

TEST(ResumeState, RefusesAStateThatIsNone) {
  std::stringstream file;
  torch::save(torch::rand({2}), file);
  LoaderState state;
  EXPECT_THROW(torch::load(state, file), c10::Error);
}

}  // namespace
}  // namespace torchfeed
