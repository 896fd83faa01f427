// Each sampler under a loader: every epoch as the sampler alone gives it, and resumed in mid-epoch to the next batch.
#include <torchfeed/torchfeed.h>

#include "support/loader_datasets.h"
#include "support/sampler_checks.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <vector>

namespace torchfeed {
namespace {

using testing::index_dataset;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::rest_of_epoch;
using testing::Setting;

constexpr std::size_t kSize = 157;
constexpr std::size_t kBatch = 10;

/// Samplers that differ in their seed alone.
struct Shuffle {
  static auto make(std::uint64_t seed) { return samplers::ShuffleSampler(kSize, seed); }
};
struct DistributedShuffle {
  static auto make(std::uint64_t seed) { return samplers::DistributedShuffleSampler(2 * kSize - 1, 2, 1, true, seed); }
};
struct BlockShuffle {
  static auto make(std::uint64_t seed) {
    return samplers::BlockShuffleSampler(kSize, {.block_size = 5, .window_blocks = 4, .seed = seed});
  }
};
struct Weighted {
  static auto make(std::uint64_t seed) {
    return samplers::WeightedRandomSampler(std::vector<double>{3, 0, 1, 2}, {.num_samples = kSize, .seed = seed});
  }
};
struct WeightedOnce {
  static auto make(std::uint64_t seed) {
    return samplers::WeightedRandomSampler(std::vector<double>(2 * kSize, 1),
                                           {.num_samples = kSize, .replacement = false, .seed = seed});
  }
};
struct Subset {
  static auto make(std::uint64_t seed) {
    return samplers::SubsetSampler(samplers::IndexRange{7, 7 + kSize}, {.shuffle = true, .seed = seed});
  }
};

template <typename Maker>
class SamplerInLoader : public ::testing::Test {
 protected:
  static auto make_loader(const Setting& setting, std::uint64_t seed) {
    return make_data_loader(index_dataset(2 * kSize), Maker::make(seed), options_of(setting, kBatch));
  }

  /// What the sampler alone gives in its next epoch, reset first as a loader does.
  template <typename Sampler>
  static std::vector<std::int64_t> next_epoch(Sampler& sampler) {
    sampler.reset();
    const auto indices = rest_of_epoch(sampler);
    return {indices.begin(), indices.end()};
  }

  /// Reads one epoch and `taken` batches of the next, saves the state through an archive, and reads the rest of that
  /// epoch and the next one with another loader, whose sampler has another seed.
  static std::vector<std::int64_t> interrupted(const Setting& before, const Setting& after, int taken) {
    std::vector<std::int64_t> indices;
    std::stringstream file;
    {
      auto loader = make_loader(before, 5);
      indices = one_epoch_of_indices(*loader);
      int batches = 0;
      for (auto& batch : *loader) {
        indices.insert(indices.end(), batch.template data_ptr<std::int64_t>(),
                       batch.template data_ptr<std::int64_t>() + batch.numel());
        if (++batches == taken) {
          torch::save(loader->state(), file);
          break;
        }
      }
    }
    LoaderState state;
    torch::load(state, file);
    auto loader = make_loader(after, 99);
    loader->load_state(state);
    for (int epoch = 0; epoch < 2; ++epoch) {
      const auto rest = one_epoch_of_indices(*loader);
      indices.insert(indices.end(), rest.begin(), rest.end());
    }
    return indices;
  }
};

using Makers = ::testing::Types<Shuffle, DistributedShuffle, BlockShuffle, Weighted, WeightedOnce, Subset>;
class NameOfMaker {
 public:
  template <typename Maker>
  static std::string GetName(int index) {
    return std::vector<std::string>{"Shuffle",  "DistributedShuffle", "BlockShuffle",
                                    "Weighted", "WeightedOnce",       "Subset"}[static_cast<std::size_t>(index)];
  }
};
TYPED_TEST_SUITE(SamplerInLoader, Makers, NameOfMaker);

TYPED_TEST(SamplerInLoader, HasANewOrderInEachEpochWhoeverMakesTheBatches) {
  for (const Setting& setting : {Setting{0}, Setting{2}, Setting{2, WorkerMode::kThread}}) {
    auto alone = TypeParam::make(5);
    auto loader = this->make_loader(setting, 5);
    std::vector<std::int64_t> before;
    for (int epoch = 0; epoch < 3; ++epoch) {
      const auto indices = one_epoch_of_indices(*loader);
      EXPECT_EQ(indices, this->next_epoch(alone)) << testing::name_of(setting) << ", epoch " << epoch;
      EXPECT_NE(indices, before);
      before = indices;
    }
  }
}

TYPED_TEST(SamplerInLoader, GoesOnInMidEpochWithAnotherNumberOfWorkers) {
  auto alone = TypeParam::make(5);
  std::vector<std::int64_t> expected;
  for (int epoch = 0; epoch < 3; ++epoch) {
    const auto indices = this->next_epoch(alone);
    expected.insert(expected.end(), indices.begin(), indices.end());
  }
  for (const int before : {0, 2}) {
    for (const int after : {0, 2}) {
      for (const int taken : {1, 7}) {
        EXPECT_EQ(this->interrupted({before}, {after}, taken), expected)
            << before << " workers, then " << after << ", left after " << taken << " batches";
      }
    }
  }
}

TEST(SamplersInLoader, AreMadeFromTheDatasetsSize) {
  const auto size_of_epoch = [](auto loader) { return one_epoch_of_indices(*loader).size(); };
  EXPECT_EQ(size_of_epoch(make_data_loader<samplers::ShuffleSampler>(index_dataset(50))), 50U);
  EXPECT_EQ(size_of_epoch(make_data_loader<samplers::BlockShuffleSampler>(index_dataset(50))), 50U);
  EXPECT_EQ(size_of_epoch(make_data_loader<samplers::DistributedShuffleSampler>(index_dataset(50))), 50U);
}

}  // namespace
}  // namespace torchfeed
