// Options: both peers' names, defaults, and what is refused.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include "support/loader_datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

namespace torchfeed {
namespace {

using testing::counting;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::Sequential;

TEST(DataLoaderOptions, AcceptsTorchDataOptionsAndNames) {
  torch::data::DataLoaderOptions options;
  options.batch_size(4).workers(2).max_jobs(3).enforce_ordering(false).drop_last(true).timeout(
      std::chrono::milliseconds(9000));
  auto loader = make_data_loader<Sequential>(index_dataset(10), options);
  EXPECT_EQ(loader->options().batch_size, 4U);
  EXPECT_EQ(loader->options().workers, 2U);
  EXPECT_EQ(loader->options().max_jobs, 3U);
  EXPECT_FALSE(loader->options().enforce_ordering);
  EXPECT_TRUE(loader->options().drop_last);
  EXPECT_EQ(loader->options().timeout, std::chrono::milliseconds(9000));
  EXPECT_EQ(one_epoch(*loader).size(), 2U);
  EXPECT_EQ(DataLoaderOptions().workers(3).num_workers(), 3);
  EXPECT_FALSE(DataLoaderOptions().enforce_ordering(false).in_order());
}

TEST(DataLoaderOptions, PlansForKAutoWhenThatHasToBeKnown) {
  auto loader = make_data_loader<Sequential>(index_dataset(30), DataLoaderOptions(10).num_workers(kAuto));
  EXPECT_TRUE(loader->options().auto_workers);
  EXPECT_EQ(loader->options().workers, 0U) << "nothing was asked of the machine yet";
  FullDataLoaderOptions options(DataLoaderOptions(10).num_workers(kAuto).prefetch_factor(3));
  const ThreadPlan plan = ThreadingOptimizer().plan();
  const auto limit = static_cast<std::size_t>(std::min(plan.dataloader_limit, 32));
  options.plan_workers(/*computing=*/1);
  EXPECT_EQ(options.workers, std::min(limit, static_cast<std::size_t>(plan.preprocessing)));
  EXPECT_EQ(options.max_jobs, 3 * options.workers);
  EXPECT_EQ(options.jobs_for(2), 6U);
  EXPECT_EQ(options.shared_memory_budget > 0, limit > 0);
  options.plan_workers(/*computing=*/0.5);
  EXPECT_EQ(options.workers, std::min(limit, static_cast<std::size_t>(2 * plan.preprocessing)))
      << "who waits half of the time shares a core";
  options.plan_workers(/*computing=*/0);
  EXPECT_EQ(options.workers, limit);
}

TEST(DataLoaderOptions, KeepKAutoToTheCoresThatThePlanHasForWorkers) {
  const std::vector<int> all = threading::available_cpus();
  const ThreadingOptimizer optimizer({.verbose = false});
  ThreadPlan plan = optimizer.plan();
  plan.preprocessing = 7;
  plan.dataloader = 1;
  plan.dataloader_limit = 20;
  plan.trainer_cpus = plan.dataloader_cpus = all;
  FullDataLoaderOptions options(DataLoaderOptions(10).num_workers(kAuto));
  {
    const AppliedPlan applied = optimizer.apply(plan);
    options.plan_workers(/*computing=*/1);
    EXPECT_EQ(options.workers, 1U);
    EXPECT_EQ(options.worker_cpus, all);
    options.plan_workers(/*computing=*/0);
    EXPECT_EQ(options.workers, 20U) << "who waits needs no core";
  }
  plan.trainer_cpus.clear();
  plan.dataloader_cpus.clear();
  plan.dataloader_limit = 0;
  const AppliedPlan applied = optimizer.apply(plan);
  options.plan_workers(/*computing=*/1);
  EXPECT_EQ(options.workers, 0U) << "the plan has none";
}

TEST(DataLoaderOptions, ChooseWorkersWithAutoThreadingWhereNoneAreAskedFor) {
  EXPECT_TRUE(FullDataLoaderOptions(DataLoaderOptions().auto_threading(true)).auto_workers);
  const FullDataLoaderOptions fixed(DataLoaderOptions().auto_threading(true).num_workers(3));
  EXPECT_FALSE(fixed.auto_workers);
  EXPECT_EQ(fixed.workers, 3U);
}

/// The CPUs that whoever makes a batch may run on.
testing::TensorDataset cpus_dataset() {
  return {4, [](const std::vector<std::size_t>& /*indices*/) {
            const std::vector<int> cpus = threading::thread_cpus();
            return torch::tensor(std::vector<std::int64_t>(cpus.begin(), cpus.end()));
          }};
}

TEST(ThreadPlanInForce, HasCoresForWorkersWhereTheyRun) {
  const std::vector<int> cpus = threading::available_cpus();
  if (cpus.size() < 2) {
    GTEST_SKIP() << "one CPU cannot be shared out";
  }
  const ThreadingOptimizer optimizer;
  ThreadPlan plan = optimizer.plan();
  plan.trainer_cpus = {cpus[0]};
  plan.dataloader_cpus = {cpus[1]};
  for (const WorkerMode mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    const auto options = DataLoaderOptions(4).num_workers(1).worker_mode(mode);
    {
      const AppliedPlan applied = optimizer.apply(plan);
      auto loader = make_data_loader<Sequential>(cpus_dataset(), options);
      EXPECT_EQ(one_epoch_of_indices(*loader), std::vector<std::int64_t>{cpus[1]});
      auto inline_loader = make_data_loader<Sequential>(cpus_dataset(), DataLoaderOptions(4));
      EXPECT_EQ(one_epoch_of_indices(*inline_loader), std::vector<std::int64_t>{cpus[0]});
    }
    auto loader = make_data_loader<Sequential>(cpus_dataset(), options);
    EXPECT_EQ(one_epoch_of_indices(*loader), std::vector<std::int64_t>(cpus.begin(), cpus.end())) << "and no longer";
  }
}

/// What a call throws, as text.
template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "nothing thrown";
}

TEST(DataLoaderOptions, RefusesOptionsThatMakeNoSense) {
  const auto error_with = [](const DataLoaderOptions& options) {
    return error_of([&] { make_data_loader<Sequential>(index_dataset(10), options); });
  };
  EXPECT_EQ(error_with(DataLoaderOptions(0)), "DataLoaderOptions: batch_size: expected at least 1, got 0");
  EXPECT_EQ(error_with(DataLoaderOptions().num_workers(-2)),
            "DataLoaderOptions: num_workers: expected 0 to 1024 or kAuto (-1), got -2");
  EXPECT_EQ(error_with(DataLoaderOptions().num_workers(10000)),
            "DataLoaderOptions: num_workers: expected 0 to 1024 or kAuto (-1), got 10000");
  EXPECT_EQ(error_with(DataLoaderOptions().num_workers(1).prefetch_factor(0)),
            "DataLoaderOptions: prefetch_factor: expected at least 1, got 0");
  EXPECT_EQ(error_with(DataLoaderOptions().num_workers(1).max_jobs(0)),
            "DataLoaderOptions: max_jobs: expected at least 1, got 0");
  EXPECT_EQ(error_with(DataLoaderOptions().timeout(std::chrono::milliseconds(0))),
            "DataLoaderOptions: timeout: expected more than 0 ms, got 0 ms");
  EXPECT_EQ(error_with(DataLoaderOptions().num_workers(2).prefetch_factor(100000)),
            "DataLoaderOptions: prefetch_factor * num_workers or max_jobs: expected at most 16384 batches ahead, got "
            "100000 for each worker");
  EXPECT_THAT(error_with(DataLoaderOptions().num_workers(1).shared_memory_budget(10)),
              HasSubstr("shared_memory_budget: expected at least 1048576 bytes, got 10"));
}

TEST(DataLoaderOptions, NeedsADatasetThatKnowsItsSize) {
  struct Unsized : torch::data::datasets::BatchDataset<Unsized, torch::Tensor> {
    torch::Tensor get_batch(torch::ArrayRef<std::size_t> /*indices*/) override { return {}; }
    torch::optional<std::size_t> size() const override { return torch::nullopt; }
  };
  EXPECT_EQ(error_of([] { make_data_loader<Sequential>(Unsized(), DataLoaderOptions(1)); }),
            "Expected the dataset to be sized in order to construct the Sampler");
}

}  // namespace
}  // namespace torchfeed
