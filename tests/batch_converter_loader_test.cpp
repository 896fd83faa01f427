// BatchConverter where batches are made: in transforms and batch-native datasets, in worker processes, threads and
// inline, and in several threads at once.
#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/parallel_map.h>

#include "support/loader_datasets.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <numeric>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::FunctionDataset;
using testing::kSettings;
using testing::one_epoch;
using testing::options_of;
using testing::Sequential;
using testing::Setting;
using torch::data::Example;
using torch::data::TensorExample;

constexpr std::int64_t kImages = 23;
/// Large enough for two threads.
constexpr std::int64_t kHeight = 64;
constexpr std::int64_t kWidth = 96;

const BatchConverterOptions kToPlanes{.scale = {0.01, 0.02, 0.03},
                                      .shift = {1, 2, 3},
                                      .from = BatchLayout::kChannelsLast,
                                      .to = BatchLayout::kChannelsFirst};

/// [23, H, W, 3] uint8, the same in every process.
const torch::Tensor& images() {
  static const torch::Tensor images =
      torch::arange(kImages * kHeight * kWidth * 3).remainder(251).to(torch::kByte).view({kImages, kHeight, kWidth, 3});
  return images;
}

/// What `kToPlanes` makes of all images, by ATen.
torch::Tensor expected_planes() {
  const torch::Tensor planes = images().permute({0, 3, 1, 2}).to(torch::kDouble);
  const auto along = [](const std::vector<double>& values) {
    return torch::tensor(values, torch::kDouble).view({1, 3, 1, 1});
  };
  return (planes * along(kToPlanes.scale) + along(kToPlanes.shift)).to(torch::kFloat);
}

/// Images and their indices.
struct ImageDataset : torch::data::datasets::Dataset<ImageDataset> {
  Example<> get(std::size_t index) override {
    const auto i = static_cast<std::int64_t>(index);
    return {images()[i], torch::tensor(i)};
  }
  torch::optional<std::size_t> size() const override { return kImages; }
};

/// Images alone.
struct BareImageDataset : torch::data::datasets::Dataset<BareImageDataset, TensorExample> {
  TensorExample get(std::size_t index) override { return images()[static_cast<std::int64_t>(index)]; }
  torch::optional<std::size_t> size() const override { return kImages; }
};

torch::Tensor rows(const std::vector<std::size_t>& indices) {
  return images().index_select(0, testing::indices_tensor(indices));
}

void expect_planes(const std::vector<torch::Tensor>& batches) {
  const torch::Tensor all = torch::cat(batches);
  ASSERT_EQ(all.sizes(), expected_planes().sizes());
  EXPECT_TRUE(torch::allclose(all, expected_planes(), 1e-6, 1e-6));
}

/// The data of one epoch, and of another one.
template <typename Dataset>
void expect_planes_from(Dataset dataset, const Setting& setting) {
  auto loader =
      make_data_loader<Sequential>(std::move(dataset), options_of(setting, 5).timeout(std::chrono::seconds(60)));
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<torch::Tensor> batches;
    for (auto& batch : one_epoch(*loader)) {
      if constexpr (std::is_same_v<std::decay_t<decltype(batch)>, torch::Tensor>) {
        batches.push_back(batch);
      } else {
        batches.push_back(batch.data);
      }
    }
    expect_planes(batches);
  }
}

class BatchConverterInLoaders : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, BatchConverterInLoaders, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

TEST_P(BatchConverterInLoaders, StacksAndConvertsTheSamplesOfADataset) {
  expect_planes_from(ImageDataset().map(BatchConverter(kToPlanes)), GetParam());
  expect_planes_from(ImageDataset().map(BatchConverter({.scale = {0.01, 0.02, 0.03},
                                                        .shift = {1, 2, 3},
                                                        .from = BatchLayout::kChannelsLast,
                                                        .to = BatchLayout::kChannelsFirst})),
                     GetParam());
  expect_planes_from(BareImageDataset().map(Convert<std::vector<TensorExample>>(kToPlanes)), GetParam());
}

TEST_P(BatchConverterInLoaders, KeepsTheTargets) {
  auto loader = make_data_loader<Sequential>(ImageDataset().map(BatchConverter(kToPlanes)), options_of(GetParam(), 5));
  std::vector<torch::Tensor> targets;
  for (auto& batch : *loader) targets.push_back(batch.target.clone());
  EXPECT_TRUE(torch::equal(torch::cat(targets), torch::arange(kImages)));
}

/// A dataset that makes whole batches, mapped.
template <typename Batch>
auto converted(std::function<Batch(const std::vector<std::size_t>&)> make) {
  using Dataset = FunctionDataset<Batch>;
  return torch::data::datasets::MapDataset<Dataset, Convert<Batch>>(Dataset(kImages, std::move(make)),
                                                                    Convert<Batch>(kToPlanes));
}

TEST_P(BatchConverterInLoaders, ConvertsTheBatchesOfBatchNativeDatasets) {
  expect_planes_from(converted<torch::Tensor>(rows), GetParam());
  expect_planes_from(converted<Example<>>([](const auto& i) { return Example<>(rows(i), testing::indices_tensor(i)); }),
                     GetParam());
  expect_planes_from(converted<TensorExample>([](const auto& i) { return TensorExample(rows(i)); }), GetParam());
}

TEST_P(BatchConverterInLoaders, ConvertsInGetBatch) {
  const BatchConverter converter(kToPlanes);
  expect_planes_from(FunctionDataset<torch::Tensor>(kImages, [converter](const auto& i) { return converter(rows(i)); }),
                     GetParam());
}

/// Puts the address of a batch's data into its target.
class WithAddress : public torch::data::transforms::BatchTransform<std::vector<Example<>>, Example<>> {
 public:
  explicit WithAddress(const BatchConverter& converter) : converter_(converter) {}
  Example<> apply_batch(std::vector<Example<>> examples) override {
    Example<> batch = converter_.apply_batch(std::move(examples));
    return {batch.data, torch::tensor(reinterpret_cast<std::int64_t>(batch.data.data_ptr()))};
  }

 private:
  BatchConverter converter_;
};

TEST(BatchConverterInLoader, WritesIntoTheSlot) {
  // The memory of the slots is at the same address in all processes.
  const std::vector<BatchConverterOptions> conversions = {
      kToPlanes, {.dtype = at::kBFloat16, .shift = {1}}, {.dtype = at::kHalf}, {.dtype = at::kByte}, {.scale = {2}}};
  for (const auto& options : conversions) {
    const BatchConverter converter(options);
    auto mapped =
        make_data_loader<Sequential>(ImageDataset().map(WithAddress(converter)), DataLoaderOptions(5).num_workers(2));
    auto native = make_data_loader<Sequential>(
        FunctionDataset<Example<>>(kImages,
                                   [converter](const auto& i) {
                                     const torch::Tensor data = converter(rows(i));
                                     return Example<>(data,
                                                      torch::tensor(reinterpret_cast<std::int64_t>(data.data_ptr())));
                                   }),
        DataLoaderOptions(5).num_workers(2));
    const auto check = [](auto& loader) {
      for (auto& batch : loader) {
        EXPECT_EQ(batch.target.template item<std::int64_t>(), reinterpret_cast<std::int64_t>(batch.data.data_ptr()));
      }
      EXPECT_EQ(loader.stats().copied_batches, 0U);
    };
    check(*mapped);
    check(*native);
  }
}

TEST(BatchConverterInLoader, WorksInProcessesForkedAfterThisOneUsedAllItsThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const BatchConverter planes(kToPlanes);
  const BatchConverter plain({.scale = {0.5}});
  const torch::Tensor ticks = torch::arange(200'000, torch::kInt);
  const torch::Tensor here = planes(images().to(torch::kInt));
  expect_planes({here});
  const torch::Tensor halves = plain(ticks);
  // A block of the same shapes in a child would wait for this process's second thread.
  const auto there = parallel_map(
      [&](int) {
        return std::vector<torch::Tensor>{planes(images().to(torch::kInt)), plain(ticks)};
      },
      std::vector<int>{0, 1, 2}, {.max_workers = 2, .use_processes = true});
  for (const auto& results : there) {
    EXPECT_TRUE(torch::equal(results[0], here));
    EXPECT_TRUE(torch::equal(results[1], halves));
  }
  at::set_num_threads(threads);
}

TEST(BatchConverterInLoader, IsUsedByManyThreadsAtOnce) {
  const BatchConverter planes(kToPlanes);
  const torch::Tensor expected = planes(images());
  std::vector<int> wrong(8);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 40; ++i) {
        const std::int64_t first = (i + static_cast<std::int64_t>(t)) % (kImages - 4);
        const std::int64_t count = 1 + i % 4;
        if (!torch::equal(planes(images().narrow(0, first, count)), expected.narrow(0, first, count))) ++wrong[t];
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(std::accumulate(wrong.begin(), wrong.end(), 0), 0);
}

TEST(BatchConverterInLoader, GivesTheSameWithAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  const torch::Tensor ticks = torch::arange(1'000'003, torch::kInt);
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kByte}) {
    const BatchConverter converter({.dtype = dtype, .scale = {0.003}, .shift = {-7}});
    at::set_num_threads(1);
    const torch::Tensor alone = converter(ticks);
    at::set_num_threads(3);
    EXPECT_TRUE(torch::equal(converter(ticks), alone)) << dtype;
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace torchfeed
