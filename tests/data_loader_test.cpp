// What every training loop relies on: the right batches, in order, without copies, whatever the number of workers.
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using testing::counting;
using testing::FunctionDataset;
using testing::generator_batch;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::indices_tensor;
using testing::kSettings;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::random_batch;
using testing::random_epochs;
using testing::Sequential;
using testing::Setting;
using testing::SharedCounter;
using testing::TensorDataset;

/// A map-style dataset, as torch::data's users write it.
struct SquareDataset : torch::data::datasets::Dataset<SquareDataset> {
  torch::data::Example<> get(std::size_t index) override {
    const auto value = static_cast<float>(index);
    return {torch::full({2, 3}, value), torch::full({}, value * value)};
  }
  torch::optional<std::size_t> size() const override { return 50; }
};

class WithWorkers : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, WithWorkers, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

TEST_P(WithWorkers, DeliversEachIndexOnceInTheSamplersOrderInEachEpoch) {
  auto loader = make_data_loader<Sequential>(index_dataset(103), options_of(GetParam(), 10));
  for (int epoch = 0; epoch < 3; ++epoch) {
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(103)) << "epoch " << epoch;
  }
  EXPECT_EQ(loader->stats().batches, 33U);
  EXPECT_EQ(loader->stats().workers, GetParam().workers);
}

TEST_P(WithWorkers, WorksWithTorchDataSamplersAndMapStack) {
  torch::manual_seed(3);
  auto loader = make_data_loader(SquareDataset().map(torch::data::transforms::Stack<>()), options_of(GetParam(), 8));
  std::multiset<float> seen;
  for (auto& batch : *loader) {
    ASSERT_EQ(batch.data.sizes().slice(1), (std::vector<std::int64_t>{2, 3}));
    for (std::int64_t i = 0; i < batch.data.size(0); ++i) {
      const auto value = batch.data[i][1][2].item<float>();
      EXPECT_EQ(batch.target[i].item<float>(), value * value);
      seen.insert(value);
    }
  }
  EXPECT_EQ(seen.size(), 50U);
  EXPECT_EQ(std::set<float>(seen.begin(), seen.end()).size(), 50U);
}

TEST_P(WithWorkers, DropsTheLastSmallBatchIfAsked) {
  auto loader = make_data_loader<Sequential>(index_dataset(25), options_of(GetParam(), 10).drop_last(true));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(20));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(20));
}

TEST_P(WithWorkers, DeliversABatchOfEverythingAndBatchesOfOne) {
  auto everything = make_data_loader<Sequential>(index_dataset(1000), options_of(GetParam(), 1000));
  EXPECT_EQ(one_epoch(*everything).size(), 1U);
  auto ones = make_data_loader<Sequential>(index_dataset(100), options_of(GetParam(), 1));
  EXPECT_EQ(one_epoch_of_indices(*ones), counting(100));
}

TEST_P(WithWorkers, HasNoBatchForAnEmptyDataset) {
  auto loader = make_data_loader<Sequential>(index_dataset(0), options_of(GetParam(), 4));
  EXPECT_TRUE(one_epoch(*loader).empty());
}

TEST_P(WithWorkers, GoesOnAfterAnEarlyBreak) {
  auto loader = make_data_loader<Sequential>(index_dataset(1000), options_of(GetParam(), 10));
  for (int round = 0; round < 20; ++round) {
    int batches = 0;
    for (auto& batch : *loader) {
      EXPECT_EQ(batch[0].item<std::int64_t>(), batches * 10);
      if (++batches == round % 4 + 1) {
        break;
      }
    }
  }
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(1000));
}

TEST_P(WithWorkers, TellsAnIteratorOfAnEpochThatHasEnded) {
  auto loader = make_data_loader<Sequential>(index_dataset(100), options_of(GetParam(), 10));
  auto old = loader->begin();
  ++old;
  loader->load_state(loader->state());
  auto current = loader->begin();
  EXPECT_THROW(++old, c10::Error);
  EXPECT_EQ((*current)[0].item<std::int64_t>(), 20);
}

/// What may be reproduced in a mode.
auto random_batch_of(const Setting& setting) {
  return setting.mode == WorkerMode::kThread ? generator_batch : random_batch;
}

TEST_P(WithWorkers, GivesTheSameRandomNumbersAsInline) {
  const auto make = random_batch_of(GetParam());
  const auto expected = random_epochs({}, 11, make);
  const auto actual = random_epochs(GetParam(), 11, make);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::equal(actual[i], expected[i])) << "batch " << i;
    EXPECT_FALSE(torch::equal(actual[i], expected[(i + 1) % expected.size()])) << "batch " << i;
  }
  EXPECT_FALSE(torch::equal(random_epochs(GetParam(), 12, make)[0], expected[0]));
}

TEST_P(WithWorkers, TakesItsSeedFromTorchManualSeed) {
  const auto first_batch = [&](std::uint64_t seed) {
    torch::manual_seed(seed);
    auto loader =
        make_data_loader<Sequential>(TensorDataset(8, random_batch_of(GetParam())), options_of(GetParam(), 8));
    return one_epoch(*loader)[0].clone();
  };
  EXPECT_TRUE(torch::equal(first_batch(5), first_batch(5)));
  EXPECT_FALSE(torch::equal(first_batch(5), first_batch(6)));
}

TEST_P(WithWorkers, LeavesTheTrainersGeneratorAlone) {
  auto loader =
      make_data_loader<Sequential>(TensorDataset(40, random_batch_of(GetParam())), options_of(GetParam(), 4).seed(1));
  torch::manual_seed(9);
  const auto expected = torch::randn({5});
  torch::manual_seed(9);
  one_epoch(*loader);
  EXPECT_TRUE(torch::equal(torch::randn({5}), expected));
}

TEST(DataLoader, PutsABatchNativeDatasetsBytesBeforeTheTrainerUncopied) {
  // The dataset writes into the batch where its memory is; the memory is the same in all processes.
  const auto make = [](const std::vector<std::size_t>& indices) {
    auto batch = empty_batch({static_cast<std::int64_t>(indices.size())}, torch::kInt64);
    batch.fill_(reinterpret_cast<std::int64_t>(batch.data_ptr()));
    return batch;
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(100, make), DataLoaderOptions(10).num_workers(2));
  for (auto& batch : *loader) {
    EXPECT_EQ(batch[9].item<std::int64_t>(), reinterpret_cast<std::int64_t>(batch.data_ptr()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(batch.data_ptr()) % 64, 0U);
  }
  EXPECT_EQ(loader->stats().copied_batches, 0U);
  EXPECT_EQ(loader->stats().batches, 10U);
}

TEST(DataLoader, NeverOverwritesBatchesThatAreKeptAndNeverStallsForThem) {
  auto loader = make_data_loader<Sequential>(index_dataset(1000), DataLoaderOptions(10).num_workers(2));
  const auto kept = one_epoch(*loader);
  const auto second = one_epoch_of_indices(*loader);
  EXPECT_EQ(torch::cat(kept).sum().item<std::int64_t>(), 999 * 500);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i][0].item<std::int64_t>(), static_cast<std::int64_t>(i) * 10);
  }
  EXPECT_EQ(second, counting(1000));
  EXPECT_GT(loader->stats().copied_batches, 0U);
}

TEST(DataLoader, TensorsOutliveTheirLoader) {
  std::vector<torch::Tensor> kept;
  {
    auto loader = make_data_loader<Sequential>(index_dataset(40), DataLoaderOptions(10).num_workers(2));
    kept = one_epoch(*loader);
  }
  EXPECT_EQ(torch::cat(kept).sum().item<std::int64_t>(), 39 * 20);
  kept[0].fill_(7);
  EXPECT_EQ(kept[0].sum().item<std::int64_t>(), 70);
}

TEST(DataLoader, HandsOutBatchesAsTheyAreDoneWhenOutOfOrder) {
  // Batch 0 is made only when the trainer has another one.
  SharedCounter received;
  const auto make = [received = &*received](const std::vector<std::size_t>& indices) {
    while (indices[0] == 0 && received->load() == 0) {
      std::this_thread::yield();
    }
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(
      TensorDataset(40, make),
      DataLoaderOptions(10).num_workers(2).in_order(false).timeout(std::chrono::milliseconds(20000)));
  std::vector<std::int64_t> indices;
  for (auto& batch : *loader) {
    (*received).fetch_add(1);
    indices.insert(indices.end(), batch.data_ptr<std::int64_t>(), batch.data_ptr<std::int64_t>() + batch.numel());
  }
  EXPECT_NE(indices.front(), 0);
  std::sort(indices.begin(), indices.end());
  EXPECT_EQ(indices, counting(40));
}

TEST(DataLoader, DoesNotLetWorkersIdleBehindASlowBatchWhileASlotIsFree) {
  // Batch 0 is done only when four others are: more than max_jobs.
  for (const WorkerMode mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    SharedCounter made;
    const auto make = [made = &*made](const std::vector<std::size_t>& indices) {
      while (indices[0] == 0 && made->load() < 4) {
        std::this_thread::yield();
      }
      made->fetch_add(1);
      return indices_tensor(indices);
    };
    auto loader = make_data_loader<Sequential>(
        TensorDataset(40, make), options_of({2, mode}, 2).max_jobs(2).timeout(std::chrono::milliseconds(20000)));
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(40));
  }
}

/// Counts what is asked for.
class CountingSampler final : public Sequential {
 public:
  CountingSampler(std::size_t size, std::size_t* asked) : Sequential(size), asked_(asked) {}
  torch::optional<std::vector<std::size_t>> next(std::size_t batch_size) override {
    ++*asked_;
    return Sequential::next(batch_size);
  }

 private:
  std::size_t* asked_;
};

/// The most batches that were asked for at a time before the loop had them, with two workers.
std::size_t most_ahead(std::chrono::microseconds time, const DataLoaderOptions& options) {
  std::size_t asked = 0;
  std::size_t had = 0;
  std::size_t most = 0;
  const auto make = [time](const std::vector<std::size_t>& indices) {
    std::this_thread::sleep_for(time);
    return indices_tensor(indices);
  };
  auto loader = make_data_loader(TensorDataset(300, make), CountingSampler(300, &asked), options);
  for ([[maybe_unused]] auto& batch : *loader) {
    most = std::max(most, asked - ++had);
  }
  return most;
}

TEST(DataLoader, AsksForBatchesFurtherAheadWhereTheyTakeNoTimeToMake) {
  for (const WorkerMode mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    const auto options = options_of({2, mode}, 1).in_order(false);
    constexpr std::chrono::microseconds kNone{0};
    EXPECT_GT(most_ahead(kNone, options), 6U);
    EXPECT_LE(most_ahead(kNone, options), 17U) << "8 a worker, and the one that the loader holds ready";
    EXPECT_LE(most_ahead(std::chrono::milliseconds(1), options), 5U);
    EXPECT_LE(most_ahead(kNone, DataLoaderOptions(options).max_jobs(4)), 5U) << "the user has the last word";
  }
}

TEST(DataLoader, TellsAWorkerWhoItIs) {
  const auto make = [](const std::vector<std::size_t>&) {
    const auto info = worker_info();
    return torch::tensor({static_cast<std::int64_t>(info.has_value()), static_cast<std::int64_t>(info ? info->id : -1),
                          static_cast<std::int64_t>(info ? info->count : -1),
                          static_cast<std::int64_t>(info ? info->seed : 0), static_cast<std::int64_t>(::getpid())});
  };
  EXPECT_FALSE(worker_info().has_value());
  auto loader = make_data_loader<Sequential>(TensorDataset(60, make), DataLoaderOptions(1).num_workers(3).seed(42));
  for (auto& batch : *loader) {
    const auto* values = batch.data_ptr<std::int64_t>();
    EXPECT_EQ(values[0], 1);
    EXPECT_THAT(values[1], ::testing::AllOf(::testing::Ge(0), ::testing::Lt(3)));
    EXPECT_EQ(values[2], 3);
    EXPECT_EQ(values[3], 42);
    EXPECT_NE(values[4], ::getpid());
  }
}

TEST_P(WithWorkers, ComputesWithTheGradModeInWhichTheLoaderWasMade) {
  const torch::Tensor weight = torch::ones({1}, torch::requires_grad());
  const TensorDataset dataset(6, [weight](const std::vector<std::size_t>&) { return weight * 2; });
  {
    const torch::NoGradGuard no_grad;
    auto loader = make_data_loader<Sequential>(dataset, options_of(GetParam(), 1));
    for (auto& batch : *loader) {
      EXPECT_FALSE(batch.requires_grad());
    }
  }
  if (GetParam().mode == WorkerMode::kThread || GetParam().workers == 0) {
    auto loader = make_data_loader<Sequential>(dataset, options_of(GetParam(), 1));
    for (auto& batch : *loader) {
      EXPECT_TRUE(batch.requires_grad());
    }
    const c10::InferenceMode inference;
    auto other = make_data_loader<Sequential>(dataset, options_of(GetParam(), 1));
    for (auto& batch : *other) {
      EXPECT_TRUE(batch.is_inference());
    }
  }
}

TEST(DataLoader, HasTheKernelEndWorkersBeforeTheTrainerWhereMemoryRunsOut) {
  const auto score = [](const std::vector<std::size_t>&) {
    std::int64_t adjustment = 0;
    std::ifstream("/proc/self/oom_score_adj") >> adjustment;
    return torch::tensor({adjustment});
  };
  const auto trainers = score({}).item<std::int64_t>();
  auto loader = make_data_loader<Sequential>(TensorDataset(1, score), DataLoaderOptions(1).num_workers(1));
  EXPECT_EQ((*loader->begin()).item<std::int64_t>(), std::min<std::int64_t>(trainers + 500, 1000));
  EXPECT_EQ(score({}).item<std::int64_t>(), trainers);
}

TEST(DataLoader, TellsThreadsOfADatasetWhoseTheyAre) {
  const auto make = [](const std::vector<std::size_t>&) {
    std::int64_t id = -1;
    std::thread([&id] { id = worker_info() ? worker_info()->id : -1; }).join();
    return torch::tensor({id, static_cast<std::int64_t>(worker_info()->id)});
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(20, make), DataLoaderOptions(1).num_workers(2));
  for (auto& batch : *loader) {
    EXPECT_EQ(batch[0].item<std::int64_t>(), batch[1].item<std::int64_t>());
  }
  std::thread([] { EXPECT_FALSE(worker_info().has_value()) << "in the trainer"; }).join();
}

/// The workers' process ids, one a batch.
torch::Tensor pid_batch(const std::vector<std::size_t>& /*indices*/) {
  return torch::full({1}, static_cast<std::int64_t>(::getpid()), torch::kInt64);
}

std::set<std::int64_t> pids_of_an_epoch(DataLoader<TensorDataset, Sequential>& loader) {
  const auto pids = one_epoch_of_indices(loader);
  return {pids.begin(), pids.end()};
}

TEST(DataLoader, KeepsItsWorkersFromEpochToEpoch) {
  auto loader = make_data_loader<Sequential>(TensorDataset(20, pid_batch), DataLoaderOptions(1).num_workers(1));
  const auto first = pids_of_an_epoch(*loader);
  EXPECT_EQ(first.size(), 1U);
  EXPECT_EQ(pids_of_an_epoch(*loader), first);
  EXPECT_EQ(loader->stats().worker_restarts, 0U);
}

TEST(DataLoader, EndsItsWorkersWithTheEpochIfAsked) {
  auto loader = make_data_loader<Sequential>(TensorDataset(20, pid_batch),
                                             DataLoaderOptions(1).num_workers(1).persistent_workers(false));
  const auto first = pids_of_an_epoch(*loader);
  const auto second = pids_of_an_epoch(*loader);
  EXPECT_EQ(second.size(), 1U);
  EXPECT_NE(second, first);
  EXPECT_EQ(loader->stats().worker_restarts, 0U);
}

TEST(DataLoader, EndsItsWorkersWithAnEpochThatIsLeftEarlyIfAsked) {
  auto loader = make_data_loader<Sequential>(TensorDataset(20, pid_batch),
                                             DataLoaderOptions(1).num_workers(1).persistent_workers(false));
  const auto first = (*loader->begin()).item<std::int64_t>();
  EXPECT_NE((*loader->begin()).item<std::int64_t>(), first);
}

TEST(DataLoader, CallsWorkerInitFnBeforeTheFirstBatch) {
  static int initialised = -1;
  const auto make = [](const std::vector<std::size_t>&) {
    return torch::tensor({static_cast<std::int64_t>(initialised), static_cast<std::int64_t>(worker_info()->id)});
  };
  auto loader = make_data_loader<Sequential>(
      TensorDataset(20, make), DataLoaderOptions(1).num_workers(2).worker_init_fn([](int id) { initialised = id; }));
  for (auto& batch : *loader) {
    EXPECT_EQ(batch[0].item<std::int64_t>(), batch[1].item<std::int64_t>());
  }
  EXPECT_EQ(initialised, -1) << "in the trainer";
}

/// Counts up, but throws in place of its fourth request.
struct ThrowingSampler : Sequential {
  using Sequential::Sequential;
  int requests = 0;
  torch::optional<std::vector<std::size_t>> next(std::size_t batch_size) override {
    if (++requests == 4) {
      throw std::runtime_error("no more luck");
    }
    return Sequential::next(batch_size);
  }
};

TEST_P(WithWorkers, HandsOutTheBatchesBeforeASamplersExceptionAndThoseAfterIt) {
  auto loader = make_data_loader(index_dataset(60), ThrowingSampler(60), options_of(GetParam(), 10));
  std::vector<std::int64_t> seen;
  auto iterator = loader->begin();
  seen.push_back((*iterator)[0].item<std::int64_t>());
  while (seen.size() < 7) {
    try {
      ++iterator;
      seen.push_back((*iterator)[0].item<std::int64_t>());
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "no more luck");
      seen.push_back(-1);
    }
  }
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 10, 20, -1, 30, 40, 50}));
}

TEST(DataLoader, WorksInsideAnotherLoadersDataset) {
  const auto make = [](const std::vector<std::size_t>& indices) {
    auto inner = make_data_loader<Sequential>(index_dataset(4), DataLoaderOptions(2));
    one_epoch(*inner);
    auto batch = empty_batch({1}, torch::kInt64);  // still the outer batch's memory
    batch.fill_(reinterpret_cast<std::int64_t>(batch.data_ptr()));
    return torch::cat({batch, indices_tensor(indices)}).narrow(0, 0, 1);
  };
  const auto address = [](const std::vector<std::size_t>&) {
    auto inner = make_data_loader<Sequential>(index_dataset(4), DataLoaderOptions(2));
    one_epoch(*inner);
    auto batch = empty_batch({1}, torch::kInt64);
    batch.fill_(reinterpret_cast<std::int64_t>(batch.data_ptr()));
    return batch;
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(3, address), DataLoaderOptions(1).num_workers(1));
  for (auto& batch : *loader) {
    EXPECT_EQ(batch.item<std::int64_t>(), reinterpret_cast<std::int64_t>(batch.data_ptr()));
  }
  auto copied = make_data_loader<Sequential>(TensorDataset(3, make), DataLoaderOptions(1).num_workers(1));
  EXPECT_EQ(one_epoch(*copied).size(), 3U);
}

TEST(DataLoader, WorksBesideAnotherLoader) {
  auto first = make_data_loader<Sequential>(index_dataset(200), DataLoaderOptions(10).num_workers(1));
  auto second = make_data_loader<Sequential>(index_dataset(200), DataLoaderOptions(10).num_workers(1));
  auto iterator = second->begin();
  EXPECT_EQ(one_epoch_of_indices(*first), counting(200));
  first.reset();
  std::int64_t batches = 0;
  for (; iterator != second->end(); ++iterator) {
    EXPECT_EQ((*iterator)[0].item<std::int64_t>(), 10 * batches++);
  }
  EXPECT_EQ(batches, 20);
}

TEST(DataLoader, LetsOtherThreadsKeepAndDropBatches) {
  auto loader = make_data_loader<Sequential>(index_dataset(2000), DataLoaderOptions(10).num_workers(2));
  std::vector<std::thread> threads;
  std::atomic<std::int64_t> sum{0};
  for (auto& batch : *loader) {
    threads.emplace_back([&sum, batch] { sum += batch.sum().item<std::int64_t>(); });
    if (threads.size() == 8) {
      for (auto& thread : threads) {
        thread.join();
      }
      threads.clear();
    }
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(sum, 1999 * 1000);
}

TEST_P(WithWorkers, CannotBeUsedAfterJoinUnlessTheLoopMakesItsBatches) {
  auto loader = make_data_loader<Sequential>(index_dataset(30), options_of(GetParam(), 10));
  one_epoch(*loader);
  loader->join();
  loader->join();
  EXPECT_EQ(loader->stats().batches, 3U);
  if (GetParam().workers == 0) {
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(30));
  } else {
    EXPECT_THROW(loader->begin(), c10::Error);
  }
}

}  // namespace
}  // namespace torchfeed
