// Streams that go on where they were left, and that are the same whoever reads them.
#include <torchfeed/plugin/data_loader.h>

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
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

namespace datasets = torch::data::datasets;
using testing::counting;
using ::testing::HasSubstr;
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

// ---- Resume in mid-epoch ----

/// Reads a whole epoch and `taken` batches of the next; the state then, through an archive, and what was read of it.
std::pair<LoaderState, Records> interrupted(const Setting& setting, int taken) {
  auto loader = make_data_loader(Ledger(103), options_of(setting, 4).seed(1));
  one_epoch(*loader);
  Records records;
  std::stringstream file;
  for (auto& batch : *loader) {
    const auto* data = batch.data_ptr<std::int64_t>();
    records.insert(records.end(), data, data + batch.numel());
    if (--taken == 0) {
      torch::save(loader->state(), file);
      break;
    }
  }
  LoaderState state;
  torch::load(state, file);
  return {state, records};
}

TEST(StreamResume, GoesOnWithTheNextRecord) {
  const std::vector<std::pair<Setting, Setting>> ways = {
      {{0}, {0}}, {{1}, {1}}, {{2}, {2}}, {{5}, {5}}, {{0}, {1}}, {{1}, {0}}, {{0}, {1, kThread}}, {{1, kThread}, {1}}};
  for (const auto& [before, after] : ways) {
    for (const int taken : {1, 2, 9, 25}) {
      auto [state, records] = interrupted(before, taken);
      auto loader = make_data_loader(Ledger(103), options_of(after, 4));
      loader->load_state(state);
      const Records rest = one_epoch_of_indices(*loader);
      records.insert(records.end(), rest.begin(), rest.end());
      const std::string where = testing::name_of(before) + " " + testing::name_of(after) + " " + std::to_string(taken);
      EXPECT_EQ(records, round_robin(103, ledger_parts(before), 4)) << where;
      EXPECT_EQ(one_epoch_of_indices(*loader), round_robin(103, ledger_parts(after), 4)) << where << ", next epoch";
    }
  }
}

void go_back_in_the_same_loader(const Setting& setting) {
  auto loader = make_data_loader(Ledger(103), options_of(setting, 4));
  ++loader->begin();  // two batches, and the iterator is dropped
  const LoaderState state = loader->state();
  const Records before = one_epoch_of_indices(*loader);
  loader->load_state(state);
  EXPECT_EQ(one_epoch_of_indices(*loader), Records(before.begin() + 8, before.end()));
}

TEST(StreamResume, InTheSameLoaderGoesBack) {
  go_back_in_the_same_loader({0});
  go_back_in_the_same_loader({2});
}

TEST(StreamResume, InTheSameLoaderOfThreadsGoesBack) { go_back_in_the_same_loader({1, kThread}); }

TEST(StreamResume, RefusesAnotherNumberOfParts) {
  const auto refusal = [](const Setting& before, const Setting& after) -> std::string {
    const LoaderState state = interrupted(before, 3).first;
    auto loader = make_data_loader(Ledger(103), options_of(after, 4));
    try {
      loader->load_state(state);
    } catch (const c10::Error& error) {
      EXPECT_EQ(sorted(one_epoch_of_indices(*loader)), counting(103)) << "it can still be used";
      return error.what_without_backtrace();
    }
    return "not refused";
  };
  EXPECT_EQ(refusal({2}, {3}),
            "torchfeed: load_state(): the parts of a stream: expected 3 (one for each worker process), got 2");
  EXPECT_THAT(refusal({2}, {0}), HasSubstr("expected 1"));
  EXPECT_THAT(refusal({0}, {2}), HasSubstr("expected 2"));
}

TEST(StreamResume, RefusesAStateInMidEpochOfADatasetThatThreadsRaceFor) {
  auto loader = make_data_loader(Ledger(103), options_of({3, kThread}, 4));
  auto iterator = loader->begin();
  EXPECT_FALSE(iterator == loader->end());
  EXPECT_THROW(loader->state(), c10::Error);
  while (iterator != loader->end()) {
    ++iterator;
  }
  EXPECT_EQ(loader->state().epoch, 1U) << "between epochs there is nothing to race for";
}

TEST(StreamDeath, OfAWorkerThatMayNotBeReplacedIsAnErrorAsNoOtherHasItsPart) {
  const auto die = [](std::int64_t) {
    if (worker_info()->id == 1) {
      ::raise(SIGKILL);
    }
  };
  auto loader = make_data_loader(Ticker(die), StreamSampler(40), options_of({2}, 4).max_worker_restarts(0));
  EXPECT_THROW(one_epoch(*loader), WorkerError);
}

TEST(StreamResume, OfASampledStreamReadsItAgain) {
  // 5 batches an epoch, the last of 2: what is read again is not read in the same steps.
  const auto make = [](const Setting& setting) {
    return make_data_loader(Ticker(), StreamSampler(22), options_of(setting, 5));
  };
  const std::vector<std::pair<Setting, Setting>> ways = {{{0}, {0}}, {{1}, {0}},          {{0}, {1}},
                                                         {{2}, {2}}, {{3, kThread}, {3}}, {{3}, {3, kThread}}};
  for (const auto& [before, after] : ways) {
    auto undisturbed = make(before);
    auto loader = make(before);
    for (int epoch = 0; epoch < 2; ++epoch) {
      EXPECT_EQ(one_epoch_of_indices(*loader), one_epoch_of_indices(*undisturbed));
    }
    ++loader->begin();  // two batches
    auto other = make(after);
    other->load_state(loader->state());
    const Records epoch = one_epoch_of_indices(*undisturbed);
    const std::string where = testing::name_of(before) + " " + testing::name_of(after);
    EXPECT_EQ(one_epoch_of_indices(*other), Records(epoch.begin() + 10, epoch.end())) << where;
    EXPECT_EQ(one_epoch_of_indices(*other), one_epoch_of_indices(*undisturbed)) << where << ", next epoch";
  }
}

// ---- Datasets that shuffle in reset() ----
//
// What reset() draws is seeded by (seed, epoch), wherever it runs: else parts would not fit together, and records come
// twice or never.

/// 60 records in another order each epoch, of which a worker process reads its part.
struct Shuffled : datasets::StatefulDataset<Shuffled, torch::Tensor> {
  explicit Shuffled(std::atomic<int>* deaths = nullptr) : deaths_left(deaths), mutex(std::make_shared<std::mutex>()) {}
  torch::optional<torch::Tensor> get_batch(std::size_t size) override {
    const std::lock_guard<std::mutex> lock(*mutex);
    const auto info = worker_info();
    const Part part = info && info->mode == kThread ? Part{} : part_of_this_worker();
    Records records;
    for (; records.size() < size && part.first + read * part.step < 60; ++read) {
      records.push_back(order[part.first + read * part.step].item<std::int64_t>());
    }
    if (deaths_left != nullptr && read > 20 && epoch == 2 && deaths_left->fetch_sub(1) > 0) {
      ::raise(SIGKILL);
    }
    return records.empty() ? torch::optional<torch::Tensor>() : torch::tensor(records, torch::kInt64);
  }
  void reset() override {
    order = torch::randperm(60, generator(), torch::kInt64);
    read = 0;
    ++epoch;
  }
  torch::optional<std::size_t> size() const override { return {}; }
  void save(torch::serialize::OutputArchive& /*archive*/) const override {}
  void load(torch::serialize::InputArchive& /*archive*/) override {}

  std::atomic<int>* deaths_left;
  std::shared_ptr<std::mutex> mutex;
  torch::Tensor order;
  std::int64_t read = 0;
  int epoch = 0;
};

class Shuffles : public ::testing::TestWithParam<Setting> {};

INSTANTIATE_TEST_SUITE_P(Workers, Shuffles, ::testing::ValuesIn(testing::kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

TEST_P(Shuffles, GiveEachRecordOnceInEachEpoch) {
  auto loader = make_data_loader(Shuffled(), options_of(GetParam(), 4).seed(8));
  Records last;
  for (int epoch = 0; epoch < 3; ++epoch) {
    const Records records = one_epoch_of_indices(*loader);
    EXPECT_EQ(sorted(records), counting(60)) << "epoch " << epoch;
    EXPECT_NE(records, last);
    last = records;
  }
}

TEST_P(Shuffles, DependOnTheSeedAlone) {
  const auto epochs = [](std::uint64_t seed) {
    auto loader = make_data_loader(Shuffled(), options_of(GetParam(), 4).seed(seed));
    std::vector<Records> records;
    for (int epoch = 0; epoch < 3; ++epoch) {
      records.push_back(one_epoch_of_indices(*loader));
      if (GetParam().mode == kThread && GetParam().workers > 1) {
        records.back() = sorted(records.back());
      }
    }
    return records;
  };
  torch::manual_seed(1);
  const auto first = epochs(8);
  torch::manual_seed(2);
  EXPECT_EQ(epochs(8), first);
}

TEST(ShuffleDeath, CostsNoRecord) {
  for (const int workers : {1, 2}) {
    SharedCounter deaths;
    *deaths = 1;
    auto loader = make_data_loader(Shuffled(&*deaths), DataLoaderOptions(4).num_workers(workers).seed(8));
    for (int epoch = 0; epoch < 3; ++epoch) {
      EXPECT_EQ(sorted(one_epoch_of_indices(*loader)), counting(60)) << workers << " workers, epoch " << epoch;
    }
    EXPECT_EQ(loader->stats().worker_restarts, 1U);
  }
}

TEST(ShuffleResume, GoesOnWithTheNextRecord) {
  for (const Setting& setting : {Setting{0}, Setting{1}, Setting{2}, Setting{1, kThread}}) {
    const auto make = [&] { return make_data_loader(Shuffled(), options_of(setting, 4).seed(8)); };
    auto loader = make();
    one_epoch(*loader);
    Records records;
    for (auto& batch : *loader) {
      const auto* data = batch.data_ptr<std::int64_t>();
      records.insert(records.end(), data, data + batch.numel());
      if (records.size() == 12) {
        break;
      }
    }
    auto other = make();
    other->load_state(loader->state());
    const Records rest = one_epoch_of_indices(*other);
    records.insert(records.end(), rest.begin(), rest.end());
    EXPECT_EQ(sorted(records), counting(60)) << testing::name_of(setting);
  }
}

}  // namespace
}  // namespace torchfeed
