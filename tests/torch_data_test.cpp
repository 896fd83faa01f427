// What torch::data's users feed a loader: its samplers, datasets, transforms, and requests and batches of any type.
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

namespace datasets = torch::data::datasets;
namespace samplers = torch::data::samplers;
namespace transforms = torch::data::transforms;
using testing::counting;
using testing::FunctionDataset;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::indices_tensor;
using testing::kSettings;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::Sequential;
using testing::Setting;
using Indices = std::vector<std::int64_t>;

Indices sorted(Indices indices) {
  std::sort(indices.begin(), indices.end());
  return indices;
}

class TorchData : public ::testing::TestWithParam<Setting> {
 protected:
  static bool has_processes() { return GetParam().workers > 0 && GetParam().mode == WorkerMode::kProcess; }
  static bool has_several_threads() { return GetParam().workers > 1 && GetParam().mode == WorkerMode::kThread; }
};

INSTANTIATE_TEST_SUITE_P(Workers, TorchData, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

// ---- Samplers ----

TEST_P(TorchData, RandomSamplerShufflesAnewEachEpoch) {
  auto loader = make_data_loader<samplers::RandomSampler>(index_dataset(97), options_of(GetParam(), 10));
  const Indices first = one_epoch_of_indices(*loader);
  const Indices second = one_epoch_of_indices(*loader);
  EXPECT_NE(first, counting(97));
  EXPECT_NE(first, second);
  EXPECT_EQ(sorted(first), counting(97));
  EXPECT_EQ(sorted(second), counting(97));
}

TEST_P(TorchData, RandomIsTheDefaultAndTheOrderIsThatOfTorchDatasLoader) {
  torch::manual_seed(5);
  auto theirs = torch::data::make_data_loader(index_dataset(97), torch::data::DataLoaderOptions(10));
  const Indices expected = one_epoch_of_indices(*theirs);
  torch::manual_seed(5);
  auto ours = make_data_loader(index_dataset(97), options_of(GetParam(), 10).seed(1));
  EXPECT_EQ(one_epoch_of_indices(*ours), expected);
}

TEST_P(TorchData, TakesASamplerThatWasMadeWithAnotherSizeThanTheDatasets) {
  auto loader = make_data_loader(index_dataset(97), samplers::SequentialSampler(33), options_of(GetParam(), 10));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(33));
}

/// The indices that each of `replicas` loaders gives in one epoch.
template <typename Sampler>
std::vector<Indices> replicas_of(const Setting& setting, std::size_t replicas, std::size_t epoch, bool duplicates) {
  std::vector<Indices> parts;
  for (std::size_t rank = 0; rank < replicas; ++rank) {
    Sampler sampler(100, replicas, rank, duplicates);
    sampler.set_epoch(epoch);
    auto loader = make_data_loader(index_dataset(100), sampler, options_of(setting, 8));
    parts.push_back(one_epoch_of_indices(*loader));
  }
  return parts;
}

Indices joined(const std::vector<Indices>& parts) {
  Indices all;
  for (const auto& part : parts) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

TEST_P(TorchData, DistributedSequentialSamplerGivesEachReplicaItsRange) {
  const auto parts = replicas_of<samplers::DistributedSequentialSampler>(GetParam(), 3, 0, false);
  EXPECT_EQ(joined(parts), counting(99));
  EXPECT_EQ(parts[1].front(), 33);
  const auto padded = replicas_of<samplers::DistributedSequentialSampler>(GetParam(), 3, 0, true);
  EXPECT_EQ(padded[0].size(), 34U);
  EXPECT_EQ(padded[2].size(), 34U);
  EXPECT_THAT(joined(padded), ::testing::IsSupersetOf(counting(100)));
}

TEST_P(TorchData, DistributedRandomSamplerGivesEachReplicaASampleOfItsOwnEachEpoch) {
  using Sampler = samplers::DistributedRandomSampler;
  const auto parts = replicas_of<Sampler>(GetParam(), 4, 0, false);
  EXPECT_EQ(sorted(joined(parts)), counting(100));
  EXPECT_NE(joined(parts), counting(100));
  EXPECT_EQ(replicas_of<Sampler>(GetParam(), 4, 0, false), parts) << "all replicas have to draw the same";
  const auto later = replicas_of<Sampler>(GetParam(), 4, 1, false);
  EXPECT_NE(later, parts);
  EXPECT_EQ(sorted(joined(later)), counting(100));
}

/// Sends a loader's requests back as they are.
struct Echo : datasets::BatchDataset<Echo, std::vector<std::int64_t>, samplers::BatchSize> {
  std::vector<std::int64_t> get_batch(samplers::BatchSize request) override {
    return {static_cast<std::int64_t>(request.size())};
  }
  torch::optional<std::size_t> size() const override { return {}; }
};

TEST_P(TorchData, StreamSamplerAsksForSizesUntilItsEpochIsFull) {
  auto loader = make_data_loader(Echo(), samplers::StreamSampler(23), options_of(GetParam(), 5));
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<std::int64_t> sizes;
    for (auto& batch : *loader) {
      sizes.push_back(batch.at(0));
    }
    EXPECT_THAT(sizes, ::testing::ElementsAre(5, 5, 5, 5, 3));
  }
}

// ---- Datasets and transforms ----

/// Rows [2] with a label; map-style.
struct Rows : datasets::Dataset<Rows> {
  torch::data::Example<> get(std::size_t index) override {
    const auto row = static_cast<std::int64_t>(index);
    return {torch::tensor({row, -row}), torch::tensor(10 * row)};
  }
  torch::optional<std::size_t> size() const override { return 23; }
};

TEST_P(TorchData, GivesAMapStyleDatasetsExamplesAsTheyAre) {
  auto loader = make_data_loader<Sequential>(Rows(), options_of(GetParam(), 5));
  std::int64_t row = 0;
  for (auto& examples : *loader) {
    EXPECT_EQ(examples.size(), row == 20 ? 3U : 5U);
    for (auto& example : examples) {
      EXPECT_TRUE(torch::equal(example.data, torch::tensor({row, -row})));
      EXPECT_EQ(example.target.item<std::int64_t>(), 10 * row);
      ++row;
    }
  }
  EXPECT_EQ(row, 23);
}

TEST_P(TorchData, AppliesOneTransformAfterTheOther) {
  using Example = torch::data::Example<>;
  auto dataset = Rows()
                     .map(transforms::Lambda<Example>([](Example example) {
                       return Example{example.data + 1, example.target * 2};
                     }))
                     .map(transforms::TensorLambda<>([](const torch::Tensor& row) { return row * 3; }))
                     .map(transforms::Stack<>());
  auto loader = make_data_loader<Sequential>(dataset, options_of(GetParam(), 8));
  std::int64_t begin = 0;
  for (auto& batch : *loader) {
    const auto rows = torch::arange(begin, std::min<std::int64_t>(begin + 8, 23));
    EXPECT_TRUE(torch::equal(batch.data, torch::stack({3 * (rows + 1), 3 * (1 - rows)}, 1)));
    EXPECT_TRUE(torch::equal(batch.target, 20 * rows));
    begin += 8;
  }
  EXPECT_EQ(begin, 24);
}

TEST_P(TorchData, CollatesIntoAnotherTypeAndNormalises) {
  using Example = torch::data::Example<>;
  auto sums = make_data_loader<Sequential>(
      Rows().map(transforms::BatchLambda<std::vector<Example>, std::int64_t>([](const std::vector<Example>& examples) {
        return std::accumulate(examples.begin(), examples.end(), std::int64_t{0}, [](std::int64_t sum, const auto& e) {
          return sum + e.target.template item<std::int64_t>();
        });
      })),
      options_of(GetParam(), 10));
  EXPECT_THAT(one_epoch(*sums), ::testing::ElementsAre(450, 1450, 630));

  auto firsts = make_data_loader<Sequential>(
      Rows().map(transforms::Collate<Example>([](const std::vector<Example>& examples) { return examples.front(); })),
      options_of(GetParam(), 10));
  EXPECT_EQ(one_epoch(*firsts).at(2).target.item<std::int64_t>(), 200);

  auto pictures =
      datasets::TensorDataset(torch::full({6, 1, 2, 2}, 5.0)).map(transforms::Stack<torch::data::TensorExample>());
  auto loader = make_data_loader(pictures, options_of(GetParam(), 4));
  EXPECT_EQ(one_epoch(*loader).at(1).data.sizes(), (std::vector<std::int64_t>{2, 1, 2, 2}));
}

TEST_P(TorchData, ReadsATensorDatasetWithAndWithoutStack) {
  const auto table = torch::arange(34).reshape({17, 2});
  auto plain = make_data_loader<Sequential>(datasets::TensorDataset(table), options_of(GetParam(), 4));
  std::vector<torch::Tensor> rows;
  for (auto& examples : *plain) {
    for (auto& example : examples) {
      rows.push_back(example.data.clone());
    }
  }
  EXPECT_TRUE(torch::equal(torch::stack(rows), table));

  auto stacked = make_data_loader<Sequential>(
      datasets::TensorDataset(table).map(transforms::Stack<torch::data::TensorExample>()), options_of(GetParam(), 4));
  rows.clear();
  for (auto& batch : *stacked) {
    rows.push_back(batch.data.clone());
  }
  EXPECT_TRUE(torch::equal(torch::cat(rows), table));
}

/// Counts who was asked; cannot be copied, and is shared by threads.
struct Visited : datasets::BatchDataset<Visited, torch::Tensor, std::vector<std::size_t>> {
  Visited() = default;
  Visited(const Visited&) = delete;
  Visited& operator=(const Visited&) = delete;
  torch::Tensor get_batch(std::vector<std::size_t> indices) override {
    visits += static_cast<int>(indices.size());
    return indices_tensor(indices);
  }
  torch::optional<std::size_t> size() const override { return 50; }
  std::atomic<int> visits{0};
};

TEST_P(TorchData, LetsAllThreadsUseOneSharedDataset) {
  auto shared = datasets::make_shared_dataset<Visited>();
  auto loader = make_data_loader<Sequential>(shared, options_of(GetParam(), 6));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(50));
  EXPECT_EQ(shared->visits, has_processes() ? 0 : 50) << "processes have their own";
}

/// Can be moved and not copied.
struct MoveOnlyDataset : datasets::BatchDataset<MoveOnlyDataset, torch::Tensor, std::vector<std::size_t>> {
  explicit MoveOnlyDataset(std::int64_t size) : rows(std::make_unique<Indices>(counting(size))) {}
  MoveOnlyDataset(MoveOnlyDataset&&) = default;
  torch::Tensor get_batch(std::vector<std::size_t> indices) override {
    std::vector<std::size_t> found;
    for (const auto index : indices) {
      found.push_back(static_cast<std::size_t>(rows->at(index)));
    }
    return indices_tensor(found);
  }
  torch::optional<std::size_t> size() const override { return rows->size(); }
  std::unique_ptr<Indices> rows;
};

TEST_P(TorchData, TakesADatasetThatCannotBeCopiedWhereNobodyNeedsACopy) {
  const auto make = [] { return make_data_loader<Sequential>(MoveOnlyDataset(40), options_of(GetParam(), 6)); };
  if (has_several_threads()) {
    try {
      make();
      FAIL() << "not refused";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what_without_backtrace(),
                  HasSubstr("each worker thread has a copy of the dataset: expected one that can be copied (see "
                            "torch::data::datasets::make_shared_dataset) or 1 worker, got 3 workers"));
    }
    return;
  }
  auto loader = make();
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(40));
}

/// Does not know its size.
struct Unsized : datasets::Dataset<Unsized, std::int64_t> {
  std::int64_t get(std::size_t index) override { return static_cast<std::int64_t>(index); }
  torch::optional<std::size_t> size() const override { return {}; }
};

TEST_P(TorchData, NeedsASamplerForADatasetOfUnknownSize) {
  try {
    make_data_loader(Unsized(), options_of(GetParam(), 5));
    FAIL() << "not refused";
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "Expected the dataset to be sized in order to construct the Sampler");
  }
  auto loader = make_data_loader(Unsized(), samplers::SequentialSampler(7), options_of(GetParam(), 5));
  const auto batches = one_epoch(*loader);
  EXPECT_THAT(batches, ::testing::ElementsAre(Indices{0, 1, 2, 3, 4}, Indices{5, 6}));
}

// ---- Batches of any type ----

TEST_P(TorchData, GivesNumbersAndTexts) {
  auto numbers = make_data_loader<Sequential>(
      FunctionDataset<int>(20, [](const auto& indices) { return static_cast<int>(indices.front()) + 1; }),
      options_of(GetParam(), 5));
  EXPECT_THAT(one_epoch(*numbers), ::testing::ElementsAre(1, 6, 11, 16));

  const auto name = [](std::size_t index) { return std::string(index * 100, 'x') + std::to_string(index); };
  auto texts = make_data_loader<Sequential>(
      FunctionDataset<std::string>(20, [name](const auto& indices) { return name(indices.back()); }),
      options_of(GetParam(), 10));
  EXPECT_THAT(one_epoch(*texts), ::testing::ElementsAre(name(9), name(19)));

  auto lists = make_data_loader<Sequential>(
      FunctionDataset<std::vector<std::string>>(5,
                                                [name](const auto& indices) {
                                                  std::vector<std::string> names;
                                                  std::transform(indices.begin(), indices.end(),
                                                                 std::back_inserter(names), name);
                                                  return names;
                                                }),
      options_of(GetParam(), 3));
  EXPECT_THAT(one_epoch(*lists), ::testing::ElementsAre(::testing::ElementsAre(name(0), name(1), name(2)),
                                                        ::testing::ElementsAre(name(3), name(4))));
}

TEST_P(TorchData, HandsOverPointersThatOwn) {
  auto loader = make_data_loader<Sequential>(
      FunctionDataset<std::unique_ptr<std::string>>(
          9,
          [](const auto& indices) {
            return indices[0] == 3 ? nullptr : std::make_unique<std::string>(std::to_string(indices[0]));
          }),
      options_of(GetParam(), 3));
  std::vector<std::string> texts;
  for (auto& batch : *loader) {
    const std::unique_ptr<std::string> mine = std::move(batch);
    texts.push_back(mine ? *mine : "null");
  }
  EXPECT_THAT(texts, ::testing::ElementsAre("0", "null", "6"));
}

/// Can be moved and not copied, and has no codec.
struct Parcel {
  explicit Parcel(torch::Tensor content) : tensor(std::move(content)) {}
  Parcel(Parcel&&) = default;
  Parcel& operator=(Parcel&&) = default;
  Parcel(const Parcel&) = delete;
  Parcel& operator=(const Parcel&) = delete;
  torch::Tensor tensor;
};

constexpr const char* kCannotSend =
    "torchfeed cannot send this dataset's batches or this sampler's requests between processes: specialise "
    "torchfeed::BatchCodec<T> for their type, or use worker_mode(WorkerMode::kThread)";

TEST_P(TorchData, MovesBatchesWithoutCodecAndRefusesThemForProcesses) {
  const auto make = [] {
    return make_data_loader<Sequential>(
        FunctionDataset<Parcel>(30, [](const auto& indices) { return Parcel(indices_tensor(indices)); }),
        options_of(GetParam(), 4));
  };
  if (has_processes()) {
    try {
      make();
      FAIL() << "not refused";
    } catch (const c10::Error& error) {
      EXPECT_STREQ(error.what_without_backtrace(), kCannotSend);
    }
    return;
  }
  auto loader = make();
  std::vector<torch::Tensor> contents;
  for (auto& batch : *loader) {
    const Parcel mine = std::move(batch);
    contents.push_back(mine.tensor);
  }
  EXPECT_TRUE(torch::equal(torch::cat(contents), torch::arange(30)));
}

// ---- Requests of any type ----

/// `count` samples from `first` on, in place of their indices.
struct Range : samplers::CustomBatchRequest {
  Range(std::size_t from, std::size_t many) : first(from), count(many) {}
  std::size_t size() const override { return count; }
  std::size_t first;
  std::size_t count;
};
/// The same, which a codec is given below.
struct SendableRange : Range {
  using Range::Range;
};

}  // namespace

template <>
struct BatchCodec<SendableRange> {
  static void encode(BatchWriter& writer, const SendableRange& range) {
    writer.value(range.first);
    writer.value(range.count);
  }
  static SendableRange decode(BatchReader& reader) {
    const auto first = reader.value<std::size_t>();
    return {first, reader.value<std::size_t>()};
  }
};

namespace {

template <typename Request>
class RangeSampler : public samplers::Sampler<Request> {
 public:
  explicit RangeSampler(std::size_t size) : size_(size) {}
  void reset(torch::optional<std::size_t> new_size = {}) override {
    size_ = new_size.value_or(size_);
    next_ = 0;
  }
  torch::optional<Request> next(std::size_t batch_size) override {
    if (next_ == size_) {
      return {};
    }
    const Request request(next_, std::min(batch_size, size_ - next_));
    next_ += request.count;
    return request;
  }
  void save(torch::serialize::OutputArchive& archive) const override {
    archive.write("next", torch::tensor(static_cast<std::int64_t>(next_)));
  }
  void load(torch::serialize::InputArchive& archive) override {
    torch::Tensor next;
    archive.read("next", next);
    next_ = static_cast<std::size_t>(next.item<std::int64_t>());
  }

 private:
  std::size_t size_;
  std::size_t next_ = 0;
};

template <typename Request>
struct RangeDataset : datasets::BatchDataset<RangeDataset<Request>, torch::Tensor, Request> {
  torch::Tensor get_batch(Request request) override {
    const auto first = static_cast<std::int64_t>(request.first);
    return torch::arange(first, first + static_cast<std::int64_t>(request.count));
  }
  torch::optional<std::size_t> size() const override { return 50; }
};

template <typename Request>
auto range_loader(const DataLoaderOptions& options) {
  return make_data_loader(RangeDataset<Request>(), RangeSampler<Request>(50), options);
}

TEST_P(TorchData, TakesRequestsOfTheUsersOwnType) {
  auto loader = range_loader<SendableRange>(options_of(GetParam(), 7));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(50));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(50));
  auto dropping = range_loader<SendableRange>(options_of(GetParam(), 7).drop_last(true));
  EXPECT_EQ(one_epoch_of_indices(*dropping), counting(49));
  auto made_by_size = make_data_loader<RangeSampler<SendableRange>>(RangeDataset<SendableRange>());
  EXPECT_EQ(one_epoch_of_indices(*made_by_size), counting(50));
}

TEST_P(TorchData, TakesRequestsWithoutCodecWhereTheyNeedNotBeSent) {
  if (has_processes()) {
    try {
      range_loader<Range>(options_of(GetParam(), 7));
      FAIL() << "not refused";
    } catch (const c10::Error& error) {
      EXPECT_STREQ(error.what_without_backtrace(), kCannotSend);
    }
    return;
  }
  auto loader = range_loader<Range>(options_of(GetParam(), 7));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(50));
  static_cast<void>(*loader->begin());  // given up
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(50));
}

TEST_P(TorchData, JoinsInMidEpochWhoseRequestsCannotBeSaved) {
  if (!has_processes()) {
    auto loader = range_loader<Range>(options_of(GetParam(), 7));
    static_cast<void>(*loader->begin());
    EXPECT_NO_THROW(loader->join());
  }
}

TEST_P(TorchData, ResumesWithRequestsOfTheUsersOwnType) {
  auto loader = range_loader<SendableRange>(options_of(GetParam(), 7));
  auto iterator = loader->begin();
  ++iterator;
  auto other = range_loader<SendableRange>(DataLoaderOptions(7).num_workers(2));
  other->load_state(loader->state());
  EXPECT_EQ(one_epoch_of_indices(*other).front(), 14);
}

}  // namespace
}  // namespace torchfeed
