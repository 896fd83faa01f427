// Datasets that are read forward and not by index: torch::data's streams, stateful datasets and chunks, whoever reads.
#include <torchfeed/plugin/data_loader.h>

#include "support/epoch_with_errors.h"
#include "support/loader_datasets.h"
#include "support/shared_counter.h"
#include "support/stream_datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <exception>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::epoch_with_errors;
namespace datasets = torch::data::datasets;
using testing::counting;
using ::testing::HasSubstr;
using testing::is_ordered;
using testing::kSettings;
using testing::Ledger;
using testing::ledger_parts;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::Part;
using testing::part_of_this_worker;
using testing::Records;
using testing::round_robin;
using testing::Setting;
using testing::SharedCounter;
using testing::sorted;
using testing::Ticker;
using torch::data::samplers::StreamSampler;

constexpr auto kThread = WorkerMode::kThread;

class Streams : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, Streams, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

// ---- Streams that a StreamSampler drives ----

TEST_P(Streams, GiveEachRecordOnceAndGoOnWhereTheLastEpochEnded) {
  // 30 batches an epoch, so that each worker makes as many.
  const std::int64_t parts = std::max(GetParam().workers, 1);
  const Records expected = round_robin(360, parts, 4);
  for (const bool persistent : {true, false}) {
    auto loader =
        make_data_loader(Ticker(), StreamSampler(120), options_of(GetParam(), 4).persistent_workers(persistent));
    for (int epoch = 0; epoch < 3; ++epoch) {
      const auto begin = expected.begin() + epoch * 120;
      EXPECT_EQ(one_epoch_of_indices(*loader), Records(begin, begin + 120)) << "epoch " << epoch;
    }
  }
}

TEST_P(Streams, EndWithASmallerBatchOrWithoutIt) {
  auto whole = make_data_loader(Ticker(), StreamSampler(22), options_of(GetParam(), 5));
  EXPECT_EQ(one_epoch(*whole).back().size(0), 2);
  auto dropped = make_data_loader(Ticker(), StreamSampler(22), options_of(GetParam(), 5).drop_last(true));
  const auto batches = one_epoch(*dropped);
  EXPECT_EQ(batches.size(), 4U);
  EXPECT_EQ(batches.back().size(0), 5);
}

TEST_P(Streams, GiveNoRecordTwiceAfterAnEarlyBreak) {
  auto loader = make_data_loader(Ticker(), StreamSampler(120), options_of(GetParam(), 4));
  Records seen;
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (auto& batch : *loader) {
      const auto* data = batch.data_ptr<std::int64_t>();
      seen.insert(seen.end(), data, data + batch.numel());
      if (seen.size() % 28 == 0) {
        break;
      }
    }
  }
  const Records whole = one_epoch_of_indices(*loader);
  EXPECT_EQ(whole.size(), 120U);
  seen.insert(seen.end(), whole.begin(), whole.end());
  EXPECT_EQ(std::set<std::int64_t>(seen.begin(), seen.end()).size(), seen.size());
}

TEST(StreamDeath, OfAWorkerCostsAStreamNoRecord) {
  SharedCounter deaths;
  const auto die_once = [counter = &*deaths](std::int64_t record) {
    if (record == 150 && counter->fetch_add(1) == 0) {
      ::raise(SIGKILL);
    }
  };
  for (const int workers : {1, 2, 5}) {
    *deaths = 0;
    auto loader = make_data_loader(Ticker(die_once), StreamSampler(120), DataLoaderOptions(4).num_workers(workers));
    Records seen = one_epoch_of_indices(*loader);
    const Records second = one_epoch_of_indices(*loader);
    seen.insert(seen.end(), second.begin(), second.end());
    EXPECT_EQ(seen, round_robin(240, workers, 4)) << workers << " workers";
    EXPECT_EQ(loader->stats().worker_restarts, 1U);
  }
}

// ---- Stateful datasets ----

TEST_P(Streams, OfAStatefulDatasetGiveEachRecordOnceInEachEpoch) {
  for (const std::int64_t size : {0, 1, 3, 53, 100}) {
    auto loader = make_data_loader(Ledger(size), options_of(GetParam(), 4));
    for (int epoch = 0; epoch < 3; ++epoch) {
      const Records records = one_epoch_of_indices(*loader);
      EXPECT_EQ(sorted(records), counting(size)) << "epoch " << epoch;
      if (is_ordered(GetParam())) {
        EXPECT_EQ(records, round_robin(size, ledger_parts(GetParam()), 4)) << "epoch " << epoch;
      }
    }
  }
}

void break_early_and_begin_anew(const Setting& setting) {
  auto loader = make_data_loader(Ledger(53), options_of(setting, 4));
  for (int taken = 1; taken < 6; ++taken) {
    int batches = 0;
    for ([[maybe_unused]] auto& batch : *loader) {
      if (++batches == taken) {
        break;
      }
    }
    const Records records = one_epoch_of_indices(*loader);
    EXPECT_EQ(sorted(records), counting(53)) << "after " << taken;
    if (is_ordered(setting)) {
      EXPECT_EQ(records, round_robin(53, ledger_parts(setting), 4)) << "after " << taken;
    }
  }
}

TEST_P(Streams, OfAStatefulDatasetBeginAnewAfterAnEarlyBreak) { break_early_and_begin_anew(GetParam()); }

TEST_P(Streams, OfAStatefulDatasetLeaveOutSmallBatchesIfAsked) {
  auto loader = make_data_loader(Ledger(53), options_of(GetParam(), 4).drop_last(true));
  for (int epoch = 0; epoch < 2; ++epoch) {
    Records whole;  // of each part what fills its batches
    const std::int64_t parts = ledger_parts(GetParam());
    for (std::int64_t record = 0; record < 53; ++record) {
      const std::int64_t part_size = (53 - record % parts + parts - 1) / parts;
      if (record / parts < part_size / 4 * 4) {
        whole.push_back(record);
      }
    }
    Records seen;
    for (auto& batch : *loader) {
      EXPECT_EQ(batch.size(0), 4);
      const auto* data = batch.data_ptr<std::int64_t>();
      seen.insert(seen.end(), data, data + batch.numel());
    }
    EXPECT_EQ(sorted(seen), whole);
  }
}

TEST_P(Streams, OfAStatefulDatasetOutOfOrderGiveEachRecordOnce) {
  auto loader = make_data_loader(Ledger(203), options_of(GetParam(), 4).in_order(false));
  EXPECT_EQ(sorted(one_epoch_of_indices(*loader)), counting(203));
  EXPECT_EQ(sorted(one_epoch_of_indices(*loader)), counting(203));
}

TEST_P(Streams, OfAStatefulDatasetCanBeMappedAndShared) {
  const auto twice = torch::data::transforms::BatchLambda<torch::Tensor, torch::Tensor>(
      [](const torch::Tensor& batch) { return batch * 2; });
  auto mapped = make_data_loader(Ledger(53).map(twice), options_of(GetParam(), 4));
  auto shared = make_data_loader(datasets::make_shared_dataset<Ledger>(53), options_of(GetParam(), 4));
  Records doubled = counting(53);
  for (auto& record : doubled) {
    record *= 2;
  }
  for (int epoch = 0; epoch < 2; ++epoch) {
    EXPECT_EQ(sorted(one_epoch_of_indices(*mapped)), doubled);
    EXPECT_EQ(sorted(one_epoch_of_indices(*shared)), counting(53));
  }
}

TEST(StreamShards, ThatEndEarlyLeaveTheOthersGoingOn) {
  // Worker 0 has 2 records, worker 1 none, worker 2 the other 51: it has to be asked for more than its turns.
  struct Uneven : datasets::StatefulDataset<Uneven, std::vector<int>> {
    int read = 0;
    torch::optional<std::vector<int>> get_batch(std::size_t size) override {
      const int id = worker_info()->id;
      const int end = id == 0 ? 2 : (id == 1 ? 0 : 51);
      std::vector<int> batch;
      for (; batch.size() < size && read < end; ++read) {
        batch.push_back(100 * id + read);
      }
      return batch.empty() ? torch::optional<std::vector<int>>() : batch;
    }
    void reset() override { read = 0; }
    torch::optional<std::size_t> size() const override { return {}; }
    void save(torch::serialize::OutputArchive& /*archive*/) const override {}
    void load(torch::serialize::InputArchive& /*archive*/) override {}
  };
  auto loader = make_data_loader(Uneven(), DataLoaderOptions(4).num_workers(3));
  std::vector<int> expected = {0, 1};
  for (int i = 0; i < 51; ++i) {
    expected.push_back(200 + i);
  }
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int> seen;
    for (auto& batch : *loader) {
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(seen, expected) << "epoch " << epoch;
  }
}

TEST(StreamDeath, OfAWorkerCostsAStatefulDatasetNoRecord) {
  SharedCounter deaths;
  const auto die_once = [counter = &*deaths](std::int64_t record) {
    if (record == 42 && counter->fetch_add(1) == 1) {  // in the second epoch
      ::raise(SIGKILL);
    }
  };
  for (const int workers : {1, 2, 5}) {
    *deaths = 0;
    auto loader = make_data_loader(Ledger(100, die_once), DataLoaderOptions(4).num_workers(workers));
    for (int epoch = 0; epoch < 3; ++epoch) {
      EXPECT_EQ(one_epoch_of_indices(*loader), round_robin(100, workers, 4)) << workers << " workers, " << epoch;
    }
    EXPECT_EQ(loader->stats().worker_restarts, 1U);
  }
}

TEST_P(Streams, GoOnAfterAnException) {
  const auto fail = [](std::int64_t record) {
    if (record == 30) {
      throw std::domain_error("record 30 is torn");
    }
  };
  auto loader = make_data_loader(Ledger(100, fail), options_of(GetParam(), 4));
  for (int epoch = 0; epoch < 2; ++epoch) {
    const auto [records, texts] = GetParam().workers > 0 && GetParam().mode == kThread
                                      ? epoch_with_errors<torch::data::WorkerException>(*loader)
                                      : epoch_with_errors<std::domain_error>(*loader);
    ASSERT_EQ(texts.size(), 1U);
    EXPECT_THAT(texts[0], HasSubstr("record 30 is torn"));
    EXPECT_EQ(records.size(), 96U) << "all but one batch";
    EXPECT_EQ(std::count(records.begin(), records.end(), 30), 0);
    EXPECT_EQ(std::set<std::int64_t>(records.begin(), records.end()).size(), 96U);
  }
}

TEST(StreamDeath, AfterAnExceptionRepeatsNeither) {
  // The worker that takes over reads past record 30 again, whose exception was told already.
  SharedCounter deaths;
  const auto fail = [counter = &*deaths](std::int64_t record) {
    if (record == 30) {
      throw std::domain_error("record 30 is torn");
    }
    if (record == 62 && counter->fetch_add(1) == 0) {
      ::raise(SIGKILL);
    }
  };
  auto loader = make_data_loader(Ledger(100, fail), DataLoaderOptions(4).num_workers(2));
  const auto [records, texts] = epoch_with_errors<std::domain_error>(*loader);
  EXPECT_EQ(records.size(), 96U);
  EXPECT_EQ(std::set<std::int64_t>(records.begin(), records.end()).size(), 96U);
  EXPECT_THAT(texts, ::testing::ElementsAre("torchfeed: worker 0, batch 6: record 30 is torn"));
  EXPECT_EQ(loader->stats().worker_restarts, 1U);
}

TEST_P(Streams, TellTheirReaderWhoItIs) {
  struct Card : datasets::StreamDataset<Card, std::vector<std::int64_t>> {
    std::vector<std::int64_t> get_batch(std::size_t /*size*/) override {
      const auto info = worker_info();
      if (!info) {
        return {};
      }
      return {info->id, info->count, static_cast<std::int64_t>(info->mode), static_cast<std::int64_t>(info->seed)};
    }
    torch::optional<std::size_t> size() const override { return {}; }
  };
  const Setting setting = GetParam();
  auto loader = make_data_loader(Card(), StreamSampler(40), options_of(setting, 4).seed(77));
  std::int64_t number = 0;
  for (const auto& card : *loader) {
    if (setting.workers == 0) {
      EXPECT_TRUE(card.empty());
    } else {
      EXPECT_THAT(card, ::testing::ElementsAre(number % setting.workers, setting.workers,
                                               static_cast<std::int64_t>(setting.mode), 77));
    }
    ++number;
  }
  EXPECT_EQ(number, 10);
}

TEST_P(Streams, OfADatasetWhoseResetThrowsTellItAndCanBeReadLater) {
  struct Locked : Ledger {
    explicit Locked(std::atomic<int>* counter) : Ledger(53), resets(counter) {}
    void reset() override {
      if (resets->fetch_add(1) == 0) {
        throw std::runtime_error("the ledger is locked");
      }
      Ledger::reset();
    }
    std::atomic<int>* resets;
  };
  SharedCounter resets;
  auto loader = make_data_loader(Locked(&*resets), options_of(GetParam(), 4));
  if (GetParam().workers == 0 || GetParam().mode == kThread) {
    EXPECT_THROW(loader->begin(), std::runtime_error);
  } else {
    const auto [records, texts] = epoch_with_errors<std::runtime_error>(*loader);
    EXPECT_THAT(texts, ::testing::ElementsAre(HasSubstr("the ledger is locked")));
    EXPECT_EQ(records.size(), 49U) << "all but one batch";
  }
  for (int epoch = 0; epoch < 2; ++epoch) {
    EXPECT_EQ(sorted(one_epoch_of_indices(*loader)), counting(53));
  }
}

// ---- torch::data's ChunkDataset ----

/// 7 chunks of 0 to 12 numbers, read in parts by those that a reader has been told to read.
class Chunks : public datasets::ChunkDataReader<int> {
 public:
  using BatchType = ChunkType;

  ChunkType read_chunk(std::size_t index) override {
    const int chunk = static_cast<int>(part_.first + static_cast<std::int64_t>(index) * part_.step);
    ChunkType numbers;
    for (int i = 0; i < 2 * chunk; ++i) {
      numbers.push_back(100 * chunk + i);
    }
    return numbers;
  }
  std::size_t chunk_count() override {
    return static_cast<std::size_t>((7 - part_.first + part_.step - 1) / part_.step);
  }
  void reset() override {
    const auto info = worker_info();
    part_ = info && info->mode == WorkerMode::kProcess ? part_of_this_worker() : Part{};
  }

 private:
  Part part_;  // the readers' threads are ChunkDataset's, which are no workers
};

using Ordered = torch::data::samplers::SequentialSampler;
using ChunkDataset = datasets::ChunkDataset<Chunks, Ordered, Ordered>;

datasets::SharedBatchDataset<ChunkDataset> chunk_dataset() {
  return datasets::make_shared_dataset<ChunkDataset>(
      Chunks(), Ordered(0), Ordered(0), datasets::ChunkDatasetOptions(/*preloader_count=*/1, /*batch_size=*/5));
}

/// All numbers of all chunks, and those that a loader gives in one epoch.
std::vector<int> all_chunks() {
  std::vector<int> numbers;
  for (int chunk = 0; chunk < 7; ++chunk) {
    for (int i = 0; i < 2 * chunk; ++i) {
      numbers.push_back(100 * chunk + i);
    }
  }
  return numbers;
}
template <typename Loader>
std::vector<int> one_epoch_of_chunks(Loader& loader) {
  std::vector<int> numbers;
  for (const auto& batch : loader) {
    EXPECT_LE(batch.size(), 5U);
    numbers.insert(numbers.end(), batch.begin(), batch.end());
  }
  return numbers;
}

TEST_P(Streams, OfChunksGiveEachNumberOnceInEachEpoch) {
  auto loader = make_data_loader(chunk_dataset(), options_of(GetParam(), 5));
  for (int epoch = 0; epoch < 3; ++epoch) {
    if (epoch == 1) {
      static_cast<void>(*loader->begin());  // and given up
    }
    auto seen = one_epoch_of_chunks(*loader);
    if (GetParam().workers > 1) {
      std::sort(seen.begin(), seen.end());
    }
    EXPECT_EQ(seen, all_chunks()) << "epoch " << epoch;
  }
}

TEST_P(Streams, OfChunksTellWhatIsWrong) {
  auto loader = make_data_loader(chunk_dataset(), options_of(GetParam(), 6));
  auto iterator = loader->begin();
  try {
    *iterator;
    ADD_FAILURE() << "nothing thrown";
  } catch (const std::exception& error) {
    EXPECT_THAT(error.what(), HasSubstr("The requested batch size does not match with the initialized batch size"));
    const bool in_thread = GetParam().workers > 0 && GetParam().mode == kThread;
    EXPECT_EQ(dynamic_cast<const torch::data::WorkerException*>(&error) != nullptr, in_thread);
    EXPECT_EQ(dynamic_cast<const c10::Error*>(&error) == nullptr, in_thread);
  }
}

TEST(StreamDeath, OfAWorkerCostsNoChunk) {
  SharedCounter deaths;
  using Numbers = std::vector<int>;
  const auto die_once = torch::data::transforms::BatchLambda<Numbers>([counter = &*deaths](const Numbers& numbers) {
    if (numbers.back() > 500 && counter->fetch_add(1) == 0) {
      ::raise(SIGKILL);
    }
    return numbers;
  });
  auto loader = make_data_loader(chunk_dataset().map(die_once), DataLoaderOptions(5).num_workers(1));
  for (int epoch = 0; epoch < 2; ++epoch) {
    EXPECT_EQ(one_epoch_of_chunks(*loader), all_chunks()) << "epoch " << epoch;
  }
  EXPECT_EQ(loader->stats().worker_restarts, 1U);
}

}  // namespace
}  // namespace torchfeed
