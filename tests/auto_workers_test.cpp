// num_workers(kAuto) and the loader's part in it: real workers that come and go in the middle of an epoch.
#include "support/busy_workers.h"
#include "support/epoch_with_errors.h"
#include "support/forked_child.h"
#include "support/loader_datasets.h"
#include "support/processes.h"
#include "support/sanitized.h"
#include "support/shared_counter.h"
#include "support/shared_memory.h"
#include "support/stream_datasets.h"
#include "support/temp_dir.h"

#include <torchfeed/plugin/data_loader.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using testing::BusyWorkers;
using testing::counting;
using testing::FunctionDataset;
using testing::index_dataset;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::said_in_a_child;
using testing::Sequential;
using testing::Setting;
using testing::SharedCounter;
using testing::TensorDataset;

// ---- Workers that come and go ----

class Numbers : public ::testing::TestWithParam<Setting> {};
INSTANTIATE_TEST_SUITE_P(Workers, Numbers,
                         ::testing::Values(Setting{5, WorkerMode::kProcess}, Setting{5, WorkerMode::kThread}),
                         [](const auto& info) { return testing::name_of(info.param); });

/// An engine over batches of one index each, whose number of workers changes again and again at random.
std::vector<std::int64_t> batches_of_changing_workers(const Setting& setting, bool in_order, std::int64_t size) {
  using Request = std::vector<std::size_t>;
  const FullDataLoaderOptions options(testing::options_of(setting, 1).in_order(in_order).seed(3));
  loader::Telemetry telemetry("");
  auto ring = loader::make_ring(options);
  testing::IndexShard shard(index_dataset(static_cast<std::size_t>(size)));
  const auto maker = testing::make_maker(options, ring->ring, shard);
  maker->prepare(1);
  loader::Engine engine(options, ring, *maker, telemetry, /*workers=*/1, /*needs_all_workers=*/false);
  std::mt19937 random(11);
  std::vector<std::int64_t> batches;
  std::size_t next = 0;
  const auto refill = [&] {
    for (std::optional<std::uint32_t> slot; next < static_cast<std::size_t>(size) && (slot = engine.find_slot());) {
      Request request{next};
      maker->put_request(*slot, request);
      engine.post(*slot, {3, 1, next++});
    }
    return next < static_cast<std::size_t>(size);
  };
  while (refill() || !engine.in_flight().empty()) {
    if (random() % 10 == 0) {
      const std::size_t workers = random() % 5 + 1;
      maker->prepare(workers);
      engine.set_workers(workers);
      EXPECT_EQ(engine.workers(), workers);
    }
    const auto result = engine.next(refill);
    batches.push_back(maker->take_batch(result.slot(), result.lease()).value().item<std::int64_t>());
    if (random() % 200 == 0) {  // without any for a while
      while (!engine.in_flight().empty()) {
        const auto last = engine.next([] { return false; });
        batches.push_back(maker->take_batch(last.slot(), last.lease()).value().item<std::int64_t>());
      }
      engine.set_workers(0);
      maker->prepare(5);
      engine.set_workers(random() % 5 + 1);
    }
  }
  EXPECT_EQ(engine.stats().worker_restarts, 0U) << "who leaves has not died";
  return batches;
}

TEST_P(Numbers, OfWorkersMayChangeAtAnyTimeAndNoBatchIsLostOrDoubled) {
  EXPECT_EQ(batches_of_changing_workers(GetParam(), /*in_order=*/true, 3000), counting(3000));
  auto batches = batches_of_changing_workers(GetParam(), /*in_order=*/false, 3000);
  std::sort(batches.begin(), batches.end());
  EXPECT_EQ(batches, counting(3000));
}

TEST(LeavingWorkers, FinishALongBatchWhereOthersStay) {
  BusyWorkers workers([](int worker) {
    if (worker == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(600));  // longer than those get who have to end
    }
  });
  workers.engine().set_workers(1);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(workers.next(), i);
  }
  EXPECT_EQ(workers.made(), 3) << "nobody made one again";
}

TEST(LeavingWorkers, ThatAreKilledAtTheirBatchAreNoRestarts) {
  SharedCounter killed;
  BusyWorkers workers([counter = &*killed](int worker) {
    if (worker == 2 && counter->fetch_add(1) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ::raise(SIGKILL);
    }
  });
  workers.engine().set_workers(1);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(workers.next(), i);
  }
  EXPECT_EQ(workers.engine().stats().worker_restarts, 0U);
}

TEST(LeavingWorkers, MakeRoomForOneThatWasGivenUp) {
  BusyWorkers workers(
      [](int worker) {
        if (worker == 0) {
          ::raise(SIGKILL);
        }
      },
      /*max_worker_restarts=*/0);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(workers.next(), i) << "others make it again";
  }
  workers.engine().set_workers(1);
  workers.ask(3);
  EXPECT_EQ(workers.next(), 3);
}

TEST(LeavingWorkers, GiveBackTheMemoryOfTheirBatchesWhenNoneIsLeft) {
  BusyWorkers workers([](int /*worker*/) {});
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(workers.next(), i);
  }
  const auto held = [&workers] {
    std::uint64_t bytes = 0;
    for (std::uint32_t i = 0; i < workers.ring().size(); ++i) {
      bytes += workers.ring().charged_bytes(i);
    }
    return bytes;
  };
  EXPECT_GT(held(), 0U);
  workers.engine().set_workers(0);
  EXPECT_EQ(held(), 0U);
}

TEST(LeavingWorkers, ThatAreThreadsAtABatchDelayThoseWhoComeInTheirPlace) {
  SharedCounter go;
  BusyWorkers workers(
      [counter = &*go](int worker) {
        while (worker == 2 && counter->load() == 0) {
          std::this_thread::yield();
        }
      },
      /*max_worker_restarts=*/100, WorkerMode::kThread);
  workers.engine().set_workers(1);
  workers.engine().set_workers(3);
  EXPECT_LT(workers.engine().stats().workers, 3) << "number 2 is at its batch, and has to leave after it";
  *go = 1;
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(workers.next(), i);
  }
  std::int64_t next = 3;
  while (workers.engine().stats().workers < 3 && next < 100'000) {
    workers.ask(static_cast<std::size_t>(next));
    ASSERT_EQ(workers.next(), next++);
  }
  EXPECT_EQ(workers.engine().stats().workers, 3);
}

// ---- kAuto ----

/// The most workers that a loader has had. What it has at last may depend on what else the machine does.
int most_workers(const LoaderStats& stats) {
  int most = 0;
  for (const auto& change : stats.worker_changes) {
    most = std::max(most, change.to);
  }
  return most;
}

/// A batch that takes this long to wait for.
TensorDataset slow_dataset(std::size_t size, std::chrono::microseconds wait) {
  return {size, [wait](const std::vector<std::size_t>& indices) {
            std::this_thread::sleep_for(wait);
            return testing::indices_tensor(indices);
          }};
}

class Auto : public ::testing::TestWithParam<WorkerMode> {
 public:
  static DataLoaderOptions options(std::size_t batch_size) {
    return DataLoaderOptions(batch_size).num_workers(kAuto).worker_mode(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Workers, Auto, ::testing::Values(WorkerMode::kProcess, WorkerMode::kThread),
                         [](const auto& info) {
                           return std::string(info.param == WorkerMode::kThread ? "Threads" : "Processes");
                         });

TEST_P(Auto, TakesWorkersWhereBatchesAreWaitedForAndTellsWhy) {
  auto loader = make_data_loader<Sequential>(slow_dataset(1200, std::chrono::milliseconds(2)), options(4));
  EXPECT_EQ(loader->stats().workers, 0) << "begins with none";
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(1200));
  const LoaderStats stats = loader->stats();
  EXPECT_GE(most_workers(stats), 2) << "who wait may be more than the cores";
  EXPECT_EQ(stats.batches, 300U);
  ASSERT_FALSE(stats.worker_changes.empty());
  EXPECT_EQ(stats.worker_changes.front().from, 0);
  EXPECT_THAT(stats.worker_changes.front().reason, ::testing::HasSubstr("a batch takes"));
  EXPECT_LE(stats.worker_changes.front().batch, 100U);
  EXPECT_EQ(stats.worker_changes.back().to, stats.workers);
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(1200));
}

TEST_P(Auto, StaysWithoutWorkersWhereTrainingIsWhatTakesTime) {
  auto loader = make_data_loader<Sequential>(index_dataset(300), options(1));
  for (auto& batch : *loader) {
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    ASSERT_EQ(batch.numel(), 1);
  }
  EXPECT_LE(loader->stats().workers, 1) << "a first batch that was disturbed may cost one try";
}

TEST_P(Auto, GivesTheSameBatchesAsNoWorkers) {
  const auto slow = [](const std::vector<std::size_t>& indices) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return testing::generator_batch(indices);
  };
  const auto epochs = [&slow](const DataLoaderOptions& options) {
    auto loader = make_data_loader<torch::data::samplers::SequentialSampler>(TensorDataset(900, slow), options);
    std::vector<torch::Tensor> batches;
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (auto& batch : one_epoch(*loader)) {
        batches.push_back(batch.clone());
      }
    }
    EXPECT_EQ(options.num_workers() == kAuto, most_workers(loader->stats()) > 0);
    return batches;
  };
  const auto expected = epochs(DataLoaderOptions(7).seed(5));
  const auto batches = epochs(options(7).seed(5));
  ASSERT_EQ(batches.size(), expected.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    EXPECT_TRUE(batches[i].equal(expected[i])) << "batch " << i;
  }
}

TEST_P(Auto, LeavesTheWorkToTheLoopAgainWhenBatchesHaveBecomeCheap) {
  SharedCounter made;
  constexpr std::int64_t kDear = 300;
  // Long, as what else the machine does may hide for seconds that workers have nothing to give.
  auto loader =
      make_data_loader<Sequential>(TensorDataset(100'000,
                                                 [counter = &*made](const std::vector<std::size_t>& indices) {
                                                   if (counter->fetch_add(1) < kDear) {
                                                     std::this_thread::sleep_for(std::chrono::milliseconds(3));
                                                   }
                                                   return testing::indices_tensor(indices);
                                                 }),
                                   options(1));
  const auto left_after_those = [&] {
    const auto changes = loader->stats().worker_changes;
    return std::any_of(changes.begin(), changes.end(),
                       [](const auto& change) { return change.batch > kDear && change.to <= 1; });
  };
  std::int64_t next = 0;
  for (auto& batch : *loader) {
    ASSERT_EQ(batch.item<std::int64_t>(), next++);
    if (next % 1000 == 0 && left_after_those()) {
      break;
    }
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    while (std::chrono::steady_clock::now() < until) {  // a step that needs its core
    }
  }
  EXPECT_GE(most_workers(loader->stats()), 2);
  EXPECT_TRUE(left_after_those()) << "in " << next << " batches";
}

TEST_P(Auto, ResumesInMidEpochWithWhateverThereIs) {
  const auto options = Auto::options(3).seed(1);
  auto loader = make_data_loader<Sequential>(slow_dataset(900, std::chrono::milliseconds(2)), options);
  std::vector<std::int64_t> seen;
  auto iterator = loader->begin();
  for (int i = 0; i < 100; ++i) {
    if (i > 0) {
      ++iterator;
    }
    for (int j = 0; j < 3; ++j) {
      seen.push_back((*iterator)[j].item<std::int64_t>());
    }
  }
  EXPECT_GT(most_workers(loader->stats()), 0);
  const LoaderState state = loader->state();
  auto other = make_data_loader<Sequential>(slow_dataset(900, std::chrono::milliseconds(2)), options);
  other->load_state(state);
  for (const auto index : one_epoch_of_indices(*other)) {
    seen.push_back(index);
  }
  EXPECT_GT(most_workers(other->stats()), 0);
  EXPECT_EQ(seen, counting(900));
}

TEST_P(Auto, WorksWithEpochsThatAreLeftEarlyAndWorkersThatGoHome) {
  auto loader = make_data_loader<Sequential>(slow_dataset(400, std::chrono::milliseconds(2)),
                                             options(2).persistent_workers(false));
  for (int epoch = 0; epoch < 6; ++epoch) {
    if (epoch % 2 == 0) {
      std::int64_t next = 0;
      for (auto& batch : *loader) {
        ASSERT_EQ(batch[0].item<std::int64_t>(), next);
        if ((next += 2) == 100) {
          break;
        }
      }
    } else {
      EXPECT_EQ(one_epoch_of_indices(*loader), counting(400));
    }
  }
  EXPECT_FALSE(loader->stats().worker_changes.empty());
}

TEST_P(Auto, HandsOutErrorsAndGoesOn) {
  auto loader = make_data_loader<Sequential>(TensorDataset(300,
                                                           [](const std::vector<std::size_t>& indices) {
                                                             std::this_thread::sleep_for(std::chrono::milliseconds(2));
                                                             if (indices[0] % 50 == 10) {
                                                               throw std::out_of_range("no such record");
                                                             }
                                                             return testing::indices_tensor(indices);
                                                           }),
                                             options(1));
  const auto [indices, errors] = testing::epoch_with_errors<std::exception>(*loader);
  EXPECT_EQ(errors.size(), 6U);
  for (const std::string& error : errors) {
    EXPECT_THAT(error, ::testing::HasSubstr("no such record"));
  }
  EXPECT_EQ(indices.size(), 294U);
  EXPECT_GT(most_workers(loader->stats()), 0);
}

TEST_P(Auto, GoesWithOtherOptions) {
  auto loader = make_data_loader<Sequential>(
      slow_dataset(503, std::chrono::milliseconds(2)),
      options(2).in_order(false).drop_last(true).timeout(std::chrono::seconds(60)).max_jobs(1));
  for (int epoch = 0; epoch < 2; ++epoch) {
    auto indices = one_epoch_of_indices(*loader);
    std::sort(indices.begin(), indices.end());
    EXPECT_EQ(indices, counting(502));
  }
}

TEST_P(Auto, HasOneIteratorAtATimeWhetherThereAreWorkersOrNot) {
  auto loader = make_data_loader<Sequential>(index_dataset(10), options(1));
  auto iterator = loader->begin();
  static_cast<void>(*iterator);
  EXPECT_THROW(loader->begin(), c10::Error);
}

TEST_P(Auto, IsSeenInTheTrace) {
  const testing::TempDir directory;
  const std::string path = directory.file("run.json");
  {
    auto loader = make_data_loader<Sequential>(slow_dataset(200, std::chrono::milliseconds(2)), options(1).trace(path));
    EXPECT_EQ(one_epoch(*loader).size(), 200U);
  }
  std::ifstream file(path);
  const auto events = nlohmann::json::parse(file);
  bool change = false;
  bool row = false;
  bool work = false;
  for (const auto& event : events) {
    const std::string name = event["name"];
    change = change || name.rfind("workers 0 to ", 0) == 0;
    row = row || (name == "thread_name" && event["args"]["name"] == "worker 1");
    work = work || (name == "produce" && event["tid"] == 2);
  }
  EXPECT_TRUE(change && row && work) << change << row << work;
}

TEST_P(Auto, LeavesStreamsToTheLoop) {
  auto loader = make_data_loader(testing::Ledger(53), options(5));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(53));
  EXPECT_EQ(loader->stats().workers, 0);
}

TEST(AutoProcesses, LeaveBatchesThatCannotBeSentToTheLoop) {
  struct Opaque {
    std::size_t index;
  };
  auto loader =
      make_data_loader<Sequential>(FunctionDataset<Opaque>(100,
                                                           [](const std::vector<std::size_t>& indices) {
                                                             std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                                             return Opaque{indices[0]};
                                                           }),
                                   DataLoaderOptions(1).num_workers(kAuto));
  std::size_t next = 0;
  for (auto& batch : *loader) {
    EXPECT_EQ(batch.index, next++);
  }
  EXPECT_EQ(next, 100U);
  EXPECT_EQ(loader->stats().workers, 0);
}

TEST(AutoProcesses, AreDoneWithoutWhereTheyAreNotToBeHad) {
  if (testing::kSanitized) {
    GTEST_SKIP() << "UBSan probes objects through descriptors of its own";
  }
  EXPECT_EQ(said_in_a_child([] {
              auto loader = make_data_loader<Sequential>(slow_dataset(100, std::chrono::milliseconds(2)),
                                                         DataLoaderOptions(1).num_workers(kAuto));
              auto iterator = loader->begin();
              const testing::LimitScope limit(RLIMIT_NOFILE, 3);
              std::int64_t next = 0;
              for (; iterator != loader->end(); ++iterator) {
                if ((*iterator).item<std::int64_t>() != next++) {
                  return std::string("a wrong batch");
                }
              }
              return std::to_string(next) + " batches, " + std::to_string(loader->stats().workers) + " workers, " +
                     std::to_string(loader->stats().worker_changes.size()) + " changes";
            }),
            "100 batches, 0 workers, 0 changes");
}

/// Fails once, when there are workers and they have been asked for one batch.
struct FailsBehindOneOfTheWorkers : Sequential {
  using Sequential::SequentialSampler;
  torch::optional<std::vector<std::size_t>> next(std::size_t batch_size) override {
    const bool has_workers = !testing::children_of(::getpid()).empty();
    TORCH_CHECK(!has_workers || ++asked_workers != 2, "a list of samples is cut off");
    return Sequential::next(batch_size);
  }
  int asked_workers = 0;
};

TEST(AutoProcesses, AreDoneWithoutWhenTheForkServerHasDied) {
  const auto make = [](const std::vector<std::size_t>& indices) {
    if (worker_info()) {
      ::kill(::getppid(), SIGKILL);
      for (;;) {
        ::pause();  // until this worker dies, too
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return testing::indices_tensor(indices);
  };
  auto loader = make_data_loader(TensorDataset(100, make), FailsBehindOneOfTheWorkers(100),
                                 DataLoaderOptions(1).num_workers(kAuto));
  const auto [indices, errors] = testing::epoch_with_errors<c10::Error>(*loader);
  EXPECT_EQ(indices, counting(100));
  ASSERT_EQ(errors.size(), 1U);
  const auto& changes = loader->stats().worker_changes;
  ASSERT_EQ(changes.size(), 2U);
  EXPECT_EQ(changes.back().reason, "the fork server died");
  EXPECT_THAT(errors.front(), ::testing::HasSubstr("cut off"));
  EXPECT_EQ(loader->stats().workers, 0);
  EXPECT_THAT(testing::children_of(::getpid()), ::testing::IsEmpty());
  EXPECT_EQ(testing::memory_used(), 0U);
}

/// Cannot be copied for a worker thread.
class CopiesThrow : public torch::data::datasets::BatchDataset<CopiesThrow, torch::Tensor, std::vector<std::size_t>> {
 public:
  CopiesThrow() = default;
  CopiesThrow(CopiesThrow&&) = default;
  CopiesThrow(const CopiesThrow& /*other*/) { throw 42; }
  torch::Tensor get_batch(std::vector<std::size_t> indices) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return testing::indices_tensor(indices);
  }
  torch::optional<std::size_t> size() const override { return 60; }
};

TEST(AutoThreads, AreDoneWithoutWhereTheDatasetCannotBeCopied) {
  auto loader = make_data_loader<Sequential>(CopiesThrow(),
                                             DataLoaderOptions(1).num_workers(kAuto).worker_mode(WorkerMode::kThread));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(60));
  EXPECT_EQ(loader->stats().workers, 0);
}

TEST(AutoThreads, HaveOneCopyOfTheDatasetEach) {
  auto copies = std::make_shared<std::atomic<int>>(0);
  struct Counting {
    explicit Counting(std::shared_ptr<std::atomic<int>> count) : count(std::move(count)) {}
    Counting(const Counting& other) : count(other.count) { ++*count; }
    Counting(Counting&&) = default;
    std::shared_ptr<std::atomic<int>> count;
    torch::Tensor operator()(const std::vector<std::size_t>& indices) const {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return testing::indices_tensor(indices);
    }
  };
  TensorDataset dataset(400, Counting(copies));
  const auto options = DataLoaderOptions(1).num_workers(kAuto).worker_mode(WorkerMode::kThread);
  auto loader = make_data_loader<Sequential>(std::move(dataset), options);
  const int before = *copies;
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(400));
  const int most = most_workers(loader->stats());
  EXPECT_GT(most, 0);
  EXPECT_EQ(*copies - before, most);
}

TEST(AutoProcesses, TakeTheSharedMemoryBudgetThatIsGiven) {
  auto loader = make_data_loader<Sequential>(
      slow_dataset(300, std::chrono::milliseconds(2)),
      DataLoaderOptions(1).num_workers(kAuto).shared_memory_budget(std::size_t{1} << 20).max_jobs(3));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(300));
  EXPECT_GT(most_workers(loader->stats()), 0);
}

}  // namespace
}  // namespace torchfeed
