// How many workers parallel_map has, where they run, and several calls at once.
#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/item_chunk.h>
#include <torchfeed/plugin/parallel_map.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <latch>
#include <ranges>
#include <stdexcept>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

int workers_of_an_item(int /*item*/) {
  const auto worker = worker_info();
  return worker ? worker->count : 0;
}

// ---- How many ----

TEST(ParallelMapWorkers, AreAsManyAsThePlanInForceHasForPreprocessing) {
  const ThreadingOptimizer optimizer;
  ThreadPlan plan = optimizer.plan();
  plan.preprocessing = plan.physical_cores + 2;
  {
    const AppliedPlan applied = optimizer.apply(plan);
    EXPECT_THAT(parallel_map(workers_of_an_item, std::views::iota(0, 1000)), Each(plan.preprocessing));
  }
  EXPECT_THAT(parallel_map(workers_of_an_item, std::views::iota(0, 1000)), Each(::testing::Lt(plan.preprocessing)));
}

// Also run with a machine of 16 cores in HWLOC_SYNTHETIC, one of which the plan leaves to the system.
TEST(ParallelMapWorkers, AreAsManyAsAPlanWouldHaveForPreprocessingWhereNoneIsInForce) {
  const int planned = ThreadingOptimizer().plan().preprocessing;
  EXPECT_THAT(parallel_map(workers_of_an_item, std::views::iota(0, 1000)), Each(planned > 1 ? planned : 0));
}

TEST(ParallelMapWorkers, AreAProcessEvenForOneItemOneChunkAndOneWorkerWhereProcessesAreAskedFor) {
  const pid_t caller = ::getpid();
  const auto pid = [](int) { return ::getpid(); };
  EXPECT_THAT(parallel_map(pid, {1}, {.use_processes = true}), Each(::testing::Ne(caller)));
  EXPECT_THAT(parallel_map(pid, {1, 2, 3}, {.max_workers = 1, .use_processes = true}), Each(::testing::Ne(caller)));
  EXPECT_THAT(parallel_map(pid, {1, 2, 3}, {.use_processes = true, .chunk_size = 3}), Each(::testing::Ne(caller)));
  EXPECT_THAT(parallel_map(pid, {1, 2, 3}, {.max_workers = 0, .use_processes = true}), Each(caller));
  EXPECT_THAT(parallel_map(pid, std::vector<int>{}, {.use_processes = true}), ElementsAre());
}

// ---- Where ----

std::vector<int> cpus_of_an_item(int /*item*/) { return threading::thread_cpus(); }

// Also run with variables that make OpenMP bind the main thread to one core.
TEST(ParallelMapWorkers, AreProcessesOnAllCpusOfTheCaller) {
  const auto cpus = parallel_map(cpus_of_an_item, std::views::iota(0, 8), {.max_workers = 2, .use_processes = true});
  EXPECT_THAT(cpus, Each(threading::available_cpus()));
}

class ParallelMapUnderAPlan : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (cpus_.size() < 2) {
      GTEST_SKIP() << "one CPU cannot be shared out";
    }
  }

  /// The trainer has the first CPU, the loader's workers the second.
  AppliedPlan apply() const {
    ThreadPlan plan = optimizer_.plan();
    plan.trainer_cpus = {cpus_[0]};
    plan.dataloader_cpus = {cpus_[1]};
    return optimizer_.apply(plan);
  }
  static std::vector<std::vector<int>> cpus_of_workers() {
    return parallel_map(cpus_of_an_item, std::views::iota(0, 8), {.max_workers = 2, .use_processes = GetParam()});
  }

  const std::vector<int> cpus_ = threading::available_cpus();
  const ThreadingOptimizer optimizer_;
};

INSTANTIATE_TEST_SUITE_P(Modes, ParallelMapUnderAPlan, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Processes" : "Threads"; });

TEST_P(ParallelMapUnderAPlan, RunsOnTheTrainersAndTheLoadersCpus) {
  const AppliedPlan applied = apply();
  ASSERT_THAT(threading::thread_cpus(), ElementsAre(cpus_[0]));
  EXPECT_THAT(cpus_of_workers(), Each(ElementsAre(cpus_[0], cpus_[1])));
  EXPECT_THAT(threading::thread_cpus(), ElementsAre(cpus_[0])) << "the caller's own mask";
}

TEST_P(ParallelMapUnderAPlan, KeepsToTheCpusOfACallerThatIsBoundElsewhere) {
  const AppliedPlan applied = apply();
  std::vector<std::vector<int>> seen;
  std::thread([&] {
    ASSERT_TRUE(threading::bind_current_thread({cpus_[1]}));
    seen = cpus_of_workers();
  }).join();
  EXPECT_THAT(seen, Each(ElementsAre(cpus_[1])));
}

// ---- Calls at once ----

TEST(ParallelMapCalls, OfManyThreadsMayHaveProcessesAtOnce) {
  // A child that is forked while another thread is at an operator's first call would wait for that for ever.
  ASSERT_TRUE(torch::equal(torch::full({10}, 1), torch::full({10}, 1)));
  std::vector<std::thread> callers;
  std::atomic<int> right{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int call = 0; call < 5; ++call) {
        const auto results = parallel_map([=](int i) { return torch::full({10}, 1000 * caller + i); },
                                          std::views::iota(0, 50), {.max_workers = 2, .use_processes = true});
        for (int i = 0; i < 50; ++i) {
          right += torch::equal(results[static_cast<std::size_t>(i)], torch::full({10}, 1000 * caller + i)) ? 1 : 0;
        }
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(right, 4 * 5 * 50);
}

TEST(ParallelMapCalls, AtOnceLeaveBlasWithItsThreads) {
  const int before = threading::blas_num_threads().value_or(0);
  if (!threading::set_blas_num_threads(2) || threading::blas_library() == threading::BlasLibrary::kOpenBlasOnOpenMp) {
    GTEST_SKIP() << "no BLAS with threads of its own";
  }
  std::vector<std::thread> callers;
  std::atomic<int> others{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int call = 0; call < 50; ++call) {
        for (const int threads : parallel_map([](int) { return threading::blas_num_threads().value_or(0); },
                                              std::views::iota(0, 2), {.max_workers = 2})) {
          others += threads == 1 ? 0 : 1;
        }
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(others, 0) << "items that saw another number than 1";
  EXPECT_EQ(threading::blas_num_threads(), 2);
  threading::set_blas_num_threads(before);
}

TEST(ParallelMapCalls, AtOnceInTheirCallingThreadsPutTorchsGeneratorBack) {
  torch::manual_seed(11);
  const auto expected = torch::rand({3});
  torch::manual_seed(11);
  std::latch first_is_in(1);
  std::latch second_is_in(1);
  std::latch first_has_ended(1);
  // The one that comes second ends last, and must not put back what it found.
  const loader::BatchId seeded_elsewhere{};  // parallel_map draws its seed from the generator: here nothing may
  std::thread first([&] {
    const loader::BatchScope scope(seeded_elsewhere, nullptr, loader::Workplace::kTrainer);
    first_is_in.count_down();
    second_is_in.wait();
  });
  std::thread second([&] {
    first_is_in.wait();
    const loader::BatchScope scope(seeded_elsewhere, nullptr, loader::Workplace::kTrainer);
    torch::rand({100});
    second_is_in.count_down();
    first_has_ended.wait();
  });
  first.join();
  first_has_ended.count_down();
  second.join();
  EXPECT_TRUE(torch::equal(torch::rand({3}), expected));
}

// ---- What workers share ----

TEST(ItemDataset, ToldOfAnErrorStopsTheOthersAtOnce) {
  loader::ItemBoard board(1);
  const auto fail = [](void*, std::size_t item) -> int {
    if (item == 2) {
      throw std::runtime_error("no such bar");
    }
    return 0;
  };
  std::thread([&] {
    loader::set_worker_info({0, 1, 0, WorkerMode::kThread});
    const loader::ItemJob job{&board, 0, loader::Workplace::kWorkerThread, std::chrono::nanoseconds::max()};
    loader::ItemDataset<int> dataset({nullptr, fail}, job);
    EXPECT_EQ(dataset.get_batch({0, 2}).results.size(), 2U);
    EXPECT_FALSE(board.cancelled());
    EXPECT_NE(dataset.get_batch({2, 4}).error, nullptr);
    EXPECT_TRUE(board.cancelled());
    EXPECT_EQ(dataset.get_batch({4, 8}).results.size(), 0U) << "begun after the error";
  }).join();
}

}  // namespace
}  // namespace torchfeed
