// compare_settings: what its rows say of loaders whose behaviour is known.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <time.h>
#include <torchfeed/plugin/compare_settings.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"
#include "support/stream_datasets.h"

namespace torchfeed::testing {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;

constexpr CompareOptions kShort{.repeats = 2, .time = std::chrono::milliseconds(50), .print = false};

const auto kNoStep = [](const torch::Tensor& /*batch*/) {};

/// Inline, and two workers of each kind.
std::vector<DataLoaderOptions> all_kinds(std::size_t batch_size = 4) {
  return {options_of({0}, batch_size), options_of({2}, batch_size), options_of({2, WorkerMode::kThread}, batch_size)};
}

TensorDataset waiting_dataset(std::chrono::milliseconds time) {
  return {100'000, [time](const auto& indices) {
            std::this_thread::sleep_for(time);
            return indices_tensor(indices);
          }};
}

double thread_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void compute(double seconds) {
  for (const double end = thread_cpu_seconds() + seconds; thread_cpu_seconds() < end;) {
  }
}

TEST(CompareSettingsTest, WorkersAreFasterWhereADatasetWaits) {
  const std::vector<DataLoaderOptions> settings{options_of({4}, 2), options_of({0}, 2),
                                                options_of({4, WorkerMode::kThread}, 2)};
  const auto rows =
      compare_settings([] { return waiting_dataset(std::chrono::milliseconds(5)); }, settings, kNoStep, kShort);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_GT(rows[0].samples_per_second, 2 * rows[1].samples_per_second);
  EXPECT_GT(rows[2].samples_per_second, 2 * rows[1].samples_per_second);
  EXPECT_FALSE(rows[1].best);
  EXPECT_NE(rows[0].best, rows[2].best);
}

TEST(CompareSettingsTest, ThePaceIsWhatWorkersWaitForTogether) {
  const auto rows = compare_settings([] { return waiting_dataset(std::chrono::milliseconds(20)); },
                                     {options_of({0}, 2), options_of({4}, 2)}, kNoStep,
                                     {.repeats = 3, .time = std::chrono::milliseconds(400), .print = false});
  // A batch of 2 takes at least 20 ms of one of them, and nothing else here takes long.
  EXPECT_THAT(rows[0].samples_per_second, AllOf(Ge(50), Le(103)));
  EXPECT_THAT(rows[1].samples_per_second, AllOf(Ge(200), Le(420)));
  EXPECT_THAT(rows[0].us_per_batch_p50, AllOf(Ge(20'000), Le(40'000)));
}

TEST(CompareSettingsTest, RowsKeepTheOrderOfTheirSettings) {
  std::vector<DataLoaderOptions> settings = all_kinds();
  settings.push_back(DataLoaderOptions(8).num_workers(kAuto).prefetch_factor(3).in_order(false));
  const auto rows = compare_settings([] { return index_dataset(1000); }, settings, kNoStep, kShort);
  ASSERT_EQ(rows.size(), settings.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].options.num_workers(), settings[i].num_workers());
    EXPECT_EQ(rows[i].options.batch_size(), settings[i].batch_size());
    EXPECT_EQ(rows[i].repeats, 2);
    EXPECT_THAT(rows[i].error, IsEmpty());
  }
  EXPECT_EQ(rows[0].name, "inline, batches of 4");
  EXPECT_EQ(rows[1].name, "process 2, batches of 4");
  EXPECT_EQ(rows[2].name, "thread 2, batches of 4");
  EXPECT_EQ(rows[3].name, "process auto, batches of 8, 3 ahead each, out of order");
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](const SettingsRow& row) { return row.best; }), 1);
}

TEST(CompareSettingsTest, TheStepIsCalledOnceForEachBatch) {
  for (const DataLoaderOptions& setting : all_kinds()) {
    SharedCounter made;
    int steps = 0;
    const auto rows = compare_settings(
        [&] {
          return TensorDataset(40, [&](const auto& indices) {
            ++*made;
            return indices_tensor(indices);
          });
        },
        {setting}, [&](const torch::Tensor& /*batch*/) { ++steps; }, kShort);
    ASSERT_THAT(rows[0].error, IsEmpty());
    EXPECT_GT(steps, 2 * static_cast<int>(rows[0].batches) - 20) << rows[0].name;
    EXPECT_EQ(steps, (*made).load()) << rows[0].name;
  }
}

TEST(CompareSettingsTest, ASmallDatasetGoesOnInNewEpochs) {
  std::atomic<int> firsts{0};
  const auto rows = compare_settings<Sequential>(
      [] { return index_dataset(12); }, all_kinds(),
      [&](const torch::Tensor& batch) { firsts += batch[0].item<std::int64_t>() == 0; }, kShort);
  for (const SettingsRow& row : rows) {
    EXPECT_GT(row.batches, 3u) << row.name;
    EXPECT_GT(row.turnaround_ms, 0) << row.name;
    EXPECT_GE(row.turnaround_ms, row.later_first_batch_ms) << row.name;
    EXPECT_GT(row.later_first_batch_ms, 0) << row.name;
  }
  EXPECT_GT(firsts.load(), 3 * 2);
}

TEST(CompareSettingsTest, AnErrorIsItsRowsAloneAndSaysWhatItWas) {
  std::vector<DataLoaderOptions> settings = all_kinds();
  settings.insert(settings.begin() + 1, options_of({1}, 4).prefetch_factor(0));
  settings.push_back(options_of({1}, 4).shared_memory_budget(std::size_t{1} << 20));
  const auto rows = compare_settings(
      [] { return TensorDataset(100, [](const auto& /*indices*/) { return torch::zeros({1 << 20}); }); }, settings,
      kNoStep, kShort);
  ASSERT_EQ(rows.size(), 5u);
  for (const std::size_t good : {0, 2, 3}) {
    EXPECT_THAT(rows[good].error, IsEmpty());
    EXPECT_GT(rows[good].samples_per_second, 0) << rows[good].name;
  }
  EXPECT_THAT(rows[1].error, HasSubstr("prefetch_factor: expected at least 1, got 0"));
  EXPECT_THAT(rows[4].error, HasSubstr("1048576"));
  EXPECT_EQ(rows[4].repeats, 0);
  EXPECT_FALSE(rows[1].best || rows[4].best);
}

TEST(CompareSettingsTest, DeadWorkersAreTheirRowsError) {
  const auto rows = compare_settings(
      [] {
        return TensorDataset(100, [](const auto& indices) {
          if (const auto worker = worker_info(); worker && worker->mode == WorkerMode::kProcess) {
            ::raise(SIGKILL);
          }
          return indices_tensor(indices);
        });
      },
      {options_of({1}, 4).max_worker_restarts(1), options_of({0}, 4)}, kNoStep, kShort);
  EXPECT_THAT(rows[0].error, HasSubstr("signal"));
  EXPECT_THAT(rows[1].error, IsEmpty());
  EXPECT_TRUE(rows[1].best);
}

TEST(CompareSettingsTest, WhateverTheStepThrowsIsARowsError) {
  int calls = 0;
  const auto rows = compare_settings([] { return index_dataset(1000); }, all_kinds(),
                                     [&](const torch::Tensor& /*batch*/) {
                                       if (++calls == 1) throw 42;
                                       if (calls == 2) throw std::runtime_error("loss is nan");
                                     },
                                     kShort);
  EXPECT_THAT(rows[0].error, HasSubstr("no std::exception"));
  EXPECT_EQ(rows[1].error, "loss is nan");
  EXPECT_THAT(rows[2].error, IsEmpty());
}

TEST(CompareSettingsTest, ADatasetWithoutBatchesIsAnError) {
  const auto rows = compare_settings([] { return index_dataset(0); }, all_kinds(), kNoStep, kShort);
  for (const SettingsRow& row : rows) EXPECT_THAT(row.error, HasSubstr("no batch")) << row.name;
}

TEST(CompareSettingsTest, CpuTimeIsToldOfThoseWhoUseIt) {
  const auto rows = compare_settings(
      [] {
        return TensorDataset(100'000, [](const auto& indices) {
          compute(2e-3);
          return indices_tensor(indices);
        });
      },
      {options_of({0}, 4), options_of({1}, 4), options_of({1, WorkerMode::kThread}, 4)}, kNoStep,
      {.repeats = 1, .time = std::chrono::milliseconds(700), .print = false});
  const auto needed = [](const SettingsRow& row) { return 2e-3 * static_cast<double>(row.batches); };
  EXPECT_GE(rows[0].trainer_cpu_seconds, 0.99 * needed(rows[0]));
  EXPECT_EQ(rows[0].worker_cpu_seconds, 0);
  for (const std::size_t i : {1, 2}) {
    EXPECT_GE(rows[i].worker_cpu_seconds, 0.99 * needed(rows[i])) << rows[i].name;
    EXPECT_LT(rows[i].trainer_cpu_seconds, 0.5 * needed(rows[i])) << rows[i].name;
  }
}

TEST(CompareSettingsTest, CpuTimeOfThreadsThatHaveEndedIsNotTheTrainers) {
  const auto rows = compare_settings([] { return index_dataset(10'000); }, {options_of({1, WorkerMode::kThread}, 4)},
                                     [](const torch::Tensor& /*batch*/) { std::thread([] { compute(2e-3); }).join(); },
                                     {.repeats = 1, .time = std::chrono::milliseconds(200), .print = false});
  const double used = 2e-3 * static_cast<double>(rows[0].batches);
  EXPECT_GE(rows[0].worker_cpu_seconds, 0.99 * used);
  EXPECT_LT(rows[0].trainer_cpu_seconds, 0.5 * used);
}

TEST(CompareSettingsTest, KAutoHasTimeToFindItsPace) {
  const auto rows = compare_settings([] { return index_dataset(10'000); },
                                     {options_of({0}, 4), options_of({0}, 4).num_workers(kAuto)},
                                     [](const torch::Tensor& /*batch*/) { compute(2e-3); },
                                     {.repeats = 1, .time = std::chrono::milliseconds(100), .print = false});
  for (const std::size_t i : {0, 1}) {
    // Told up to the last batch, whose step is part of the time.
    const double seconds = static_cast<double>(rows[i].batches) * 4 / rows[i].whole_samples_per_second;
    EXPECT_GE(seconds, i == 0 ? 0.09 : 0.29);
    EXPECT_LE(rows[i].whole_samples_per_second, 4 / 2e-3);
  }
}

TEST(CompareSettingsTest, FiguresFitEachOther) {
  const auto rows = compare_settings([] { return index_dataset(10'000); }, all_kinds(),
                                     [](const torch::Tensor& /*batch*/) { compute(1e-3); },
                                     {.repeats = 3, .time = std::chrono::milliseconds(50), .print = false});
  for (const SettingsRow& row : rows) {
    EXPECT_LE(row.samples_per_second_low, row.samples_per_second) << row.name;
    EXPECT_LE(row.samples_per_second, row.samples_per_second_high) << row.name;
    EXPECT_LE(row.samples_per_second, 4.0 / 1e-3) << row.name;
    EXPECT_LE(row.us_per_batch_p50, row.us_per_batch_p99) << row.name;
    EXPECT_GE(row.us_per_batch_p50, 1000) << row.name;
    EXPECT_GT(row.first_batch_ms, 0) << row.name;
    EXPECT_GT(row.waiting_share, 0) << row.name;
    EXPECT_LT(row.waiting_share, 0.5) << row.name;
    EXPECT_GT(row.peak_pss_mb, row.added_pss_mb) << row.name;
  }
  EXPECT_EQ(rows[0].descriptors, 0);
  EXPECT_GT(rows[1].descriptors, 0);
  EXPECT_GT(rows[1].peak_pss_mb, 1);
}

TEST(CompareSettingsTest, MemoryOfBatchesIsSeen) {
  const auto rows = compare_settings(
      [] { return TensorDataset(100'000, [](const auto& /*indices*/) { return torch::ones({4 << 20}); }); },
      {options_of({2}, 4)}, kNoStep, kShort);
  EXPECT_GT(rows[0].added_pss_mb, 2 * 16);  // two slots of 16 MiB at least are in use
}

TEST(CompareSettingsTest, AStatefulDatasetNeedsNoSampler) {
  const auto rows = compare_settings([] { return Ledger(30); }, all_kinds(), kNoStep, kShort);
  for (const SettingsRow& row : rows) {
    EXPECT_THAT(row.error, IsEmpty()) << row.name;
    EXPECT_GT(row.batches, 8u) << row.name;
  }
}

TEST(CompareSettingsTest, OptionsOutOfRangeThrow) {
  const auto make = [] { return index_dataset(10); };
  EXPECT_THROW(compare_settings(make, {}, kNoStep, {.repeats = 0}), c10::Error);
  EXPECT_THROW(compare_settings(make, {}, kNoStep, {.time = std::chrono::milliseconds(0)}), c10::Error);
}

TEST(CompareSettingsTest, TheTableIsPrintedUnlessItShallNotBe) {
  CompareOptions options = kShort;
  const auto run = [&] {
    ::testing::internal::CaptureStdout();
    const auto rows = compare_settings([] { return index_dataset(100); }, all_kinds(), kNoStep, options);
    return std::pair(::testing::internal::GetCapturedStdout(), table_of(rows));
  };
  EXPECT_THAT(run().first, IsEmpty());
  options.print = true;
  const auto [printed, table] = run();
  EXPECT_EQ(printed, table);
  EXPECT_THAT(table, AllOf(HasSubstr("samples/s"), HasSubstr("inline"), HasSubstr("process 2"), HasSubstr("thread 2"),
                           HasSubstr("* ")));
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 4);
}

TEST(CompareSettingsTest, WithoutSettingsThoseForThisMachineAreTried) {
  const auto settings = settings_to_compare(DataLoaderOptions(7).prefetch_factor(3));
  EXPECT_EQ(settings[0].num_workers(), 0);
  for (const WorkerMode mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    for (const std::int64_t workers : {std::int64_t{1}, std::int64_t{2}, std::int64_t{4}, kAuto}) {
      EXPECT_EQ(std::count_if(settings.begin(), settings.end(),
                              [&](const DataLoaderOptions& setting) {
                                return setting.worker_mode() == mode && setting.num_workers() == workers;
                              }),
                1);
    }
  }
  for (const DataLoaderOptions& setting : settings) {
    EXPECT_EQ(setting.batch_size(), 7u);
    EXPECT_EQ(setting.prefetch_factor(), 3u);
  }
  const auto rows = compare_settings([] { return index_dataset(1000); }, {}, kNoStep,
                                     {.repeats = 1, .time = std::chrono::milliseconds(10), .print = false});
  EXPECT_EQ(rows.size(), settings.size());
  EXPECT_EQ(rows[0].options.batch_size(), 32u);
}

}  // namespace
}  // namespace torchfeed::testing
