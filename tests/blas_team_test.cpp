#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed::threading {
namespace {

constexpr int kMostParts = 9;
constexpr int kArgument = 7;

/// What parts of made-up products have to tell. Memory by number is one for all products, as OpenBLAS's is.
std::array<std::atomic<int>, 1024> at_work{};
std::atomic<int> mistakes{0};

struct Product {
  int parts;
  std::atomic<int> begun{0};
  std::atomic<int> numbers{0};
  std::atomic<int> least_number{1 << 20};
  /// Of the parts, those that an OpenMP team runs.
  std::atomic<int> in_team{0};
};

/// As OpenBLAS's parts do, each waits until all others of its product have begun.
struct Part {
  Product* product;
  int runs = 0;
};

void run_part(int number, void* data, int argument) {
  auto& part = *static_cast<Part*>(data);
  std::atomic<int>& memory = at_work.at(static_cast<size_t>(number));
  if (argument != kArgument || memory.fetch_add(1) != 0) ++mistakes;
  part.product->numbers += number;
  for (int least = part.product->least_number; number < least;)
    if (part.product->least_number.compare_exchange_weak(least, number)) break;
  part.product->in_team += at::in_parallel_region();
  ++part.product->begun;
  while (part.product->begun < part.product->parts) sched_yield();
  ++part.runs;
  memory.fetch_sub(1);
}

/// Whether each part ran once, and their numbers follow each other.
bool run(Product& product) {
  const int parts = product.parts;
  std::vector<Part> all(static_cast<size_t>(parts), Part{&product});
  run_blas_parts(1, run_part, parts, sizeof(Part), all.data(), kArgument);
  return product.numbers == parts * product.least_number + parts * (parts - 1) / 2 &&
         std::all_of(all.begin(), all.end(), [](const Part& part) { return part.runs == 1; });
}

bool run_product(int parts) {
  Product product{parts};
  return run(product);
}

class BlasTeamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    mistakes = 0;
    at::set_num_threads(4);
  }
  void TearDown() override {
    EXPECT_EQ(mistakes, 0);
    at::set_num_threads(before_);
  }
  const int before_ = at::get_num_threads();
};

TEST_F(BlasTeamTest, EachPartRunsOnceAndAllAtTheSameTimeWithMoreThreadsThanPartsAndWithFewer) {
  for (int round = 0; round < 20; ++round)
    for (int parts = 1; parts <= kMostParts; ++parts) EXPECT_TRUE(run_product(parts)) << parts;
}

TEST_F(BlasTeamTest, OpenMpsThreadsRunThePartsWhereTheyAreAsMany) {
  if (std::getenv("OMP_THREAD_LIMIT")) GTEST_SKIP() << "they are fewer";
  for (int parts = 2; parts <= 4; ++parts) {
    Product product{parts};
    EXPECT_TRUE(run(product));
    EXPECT_EQ(product.in_team, parts);
  }
  Product product{5};
  EXPECT_TRUE(run(product));
  EXPECT_EQ(product.in_team, 0);
}

TEST_F(BlasTeamTest, PartsRunWithinAParallelRegionToo) {
  std::atomic<int> good{0};
  at::parallel_for(0, 4, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) good += run_product(3);
  });
  EXPECT_EQ(good, 4);
}

TEST_F(BlasTeamTest, ProductsOfSeveralThreadsFollowEachOther) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&good, i] {
      at::set_num_threads(i + 1);
      for (int round = 0; round < 50; ++round) good += run_product(1 + round % 4);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 200);
}

/// Products of `a` [300, 400] and `b` [400, 200] by ATen, of every kind that OpenBLAS shares out.
std::vector<at::Tensor> products(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor square = at::mm(a, a.t()) + 300 * at::eye(300);
  std::vector<at::Tensor> results{at::mm(a, b), at::mv(a, b.select(1, 0)), at::mm(a.to(at::kDouble), b.to(at::kDouble)),
                                  at::bmm(a.view({3, 100, 400}), b.expand({3, 400, 200})), at::inverse(square)};
  at::Tensor within = at::empty({4, 300, 200});
  at::parallel_for(0, 4, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) within.select(0, i).copy_(at::mm(a, b));
  });
  results.push_back(within);
  return results;
}

bool close(const std::vector<at::Tensor>& some, const std::vector<at::Tensor>& others) {
  for (size_t i = 0; i < some.size(); ++i)
    if (!at::allclose(some[i], others[i], 1e-4, 1e-4)) return false;
  return true;
}

class SharedTeamTest : public BlasTeamTest {
 protected:
  void SetUp() override {
    if (!can_share_openmp_team() || !blas_symbol("openblas_threads_callback_"))
      GTEST_SKIP() << "this BLAS library lets nobody else run its parts, or does not show whom";
    BlasTeamTest::SetUp();
    blas_before_ = *blas_num_threads();
    ASSERT_TRUE(set_blas_num_threads(2));
  }
  void TearDown() override {
    if (IsSkipped()) return;
    EXPECT_TRUE(share_openmp_team(false));
    set_blas_num_threads(blas_before_);
    BlasTeamTest::TearDown();
  }
  int blas_before_ = 1;
};

/// What OpenBLAS has others do with its parts.
void* others() { return *static_cast<void**>(blas_symbol("openblas_threads_callback_")); }

TEST_F(SharedTeamTest, ProductsAreTheSameOnOpenMpsThreads) {
  at::manual_seed(1);
  const at::Tensor a = at::randn({300, 400});
  const at::Tensor b = at::randn({400, 200});
  const std::vector<at::Tensor> own = products(a, b);
  ASSERT_TRUE(share_openmp_team(true));
  EXPECT_TRUE(openmp_team_is_shared());
  EXPECT_EQ(others(), reinterpret_cast<void*>(run_blas_parts));
  EXPECT_TRUE(close(products(a, b), own));
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { good += close(products(a, b), own); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 3);
}

TEST_F(SharedTeamTest, AForkAndANewNumberOfThreadsWaitForAnotherThreadsProduct) {
  const at::Tensor a = at::ones({256, 256});
  ASSERT_TRUE(share_openmp_team(true));
  std::atomic<bool> end{false};
  std::atomic<int> wrong{0};
  std::thread other([&] {
    at::set_num_threads(4);
    while (!end) wrong += !at::mm(a, a).eq(256).all().item<bool>();
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(set_blas_num_threads(1 + i % 3));
  }
  end = true;
  other.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(SharedTeamTest, ThreadsThatAForkHasEndedAreThereBeforeTheFirstProduct) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(share_openmp_team(true));
  EXPECT_TRUE(blas_threads_run());
}

TEST_F(SharedTeamTest, PartsHaveOtherNumbersThanOpenBlassOwnThreads) {
  const auto* const own_threads = static_cast<const int*>(blas_symbol("blas_num_threads"));
  if (!own_threads) GTEST_SKIP() << "it does not show how many it has";
  Product product{*own_threads};
  EXPECT_TRUE(run(product));
  EXPECT_GE(product.least_number, *own_threads);
}

TEST_F(SharedTeamTest, WhatWasSharedIsPutBack) {
  ASSERT_TRUE(share_openmp_team(true));
  ASSERT_TRUE(share_openmp_team(true));
  EXPECT_TRUE(share_openmp_team(false));
  EXPECT_FALSE(openmp_team_is_shared());
  EXPECT_EQ(others(), nullptr);
}

TEST_F(SharedTeamTest, AProgramsOwnWayStays) {
  const auto set =
      reinterpret_cast<void (*)(decltype(&run_blas_parts))>(blas_symbol("openblas_set_threads_callback_function"));
  const auto foreign = [](int, RunBlasPart run, int parts, std::size_t bytes, void* first, int argument) noexcept {
    run_blas_parts(1, run, parts, bytes, first, argument);
  };
  set(foreign);
  EXPECT_FALSE(can_share_openmp_team());
  EXPECT_FALSE(share_openmp_team(true));
  EXPECT_NE(others(), nullptr);
  set(nullptr);
  ASSERT_TRUE(share_openmp_team(true));
  set(foreign);
  EXPECT_TRUE(share_openmp_team(false));
  EXPECT_NE(others(), nullptr) << "it came later";
  set(nullptr);
}

TEST_F(SharedTeamTest, AForkedChildComputesOnOpenBlassOwnThreads) {
  const at::Tensor a = at::ones({256, 256});
  ASSERT_TRUE(share_openmp_team(true));
  ASSERT_TRUE(at::mm(a, a).eq(256).all().item<bool>());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const bool own = !openmp_team_is_shared() && others() == nullptr && !can_share_openmp_team() &&
                     !share_openmp_team(true) && share_openmp_team(false);
    at::set_num_threads(1);
    _exit(own && at::mm(a, a).eq(256).all().item<bool>() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(openmp_team_is_shared());
  EXPECT_TRUE(at::mm(a, a).eq(256).all().item<bool>());
}

TEST_F(SharedTeamTest, ThePlanSharesItAndItsGuardPutsItBack) {
  const ThreadingOptimizer optimizer({.intra_op = 2});
  ThreadPlan plan = optimizer.plan();
  if (plan.blas != 2) GTEST_SKIP() << "the environment asks for another number of OpenBLAS's threads";
  EXPECT_TRUE(plan.blas_on_openmp);
  EXPECT_FALSE(plan.short_spinning);
  {
    const AppliedPlan applied = optimizer.apply(plan);
    EXPECT_TRUE(applied.plan().blas_on_openmp);
    EXPECT_TRUE(openmp_team_is_shared());
    ThreadPlan own = plan;
    own.blas_on_openmp = false;
    {
      const AppliedPlan other = optimizer.apply(own);
      EXPECT_FALSE(openmp_team_is_shared());
    }
    EXPECT_TRUE(openmp_team_is_shared());
  }
  EXPECT_FALSE(openmp_team_is_shared());
}

TEST_F(SharedTeamTest, TheOptionLeavesProductsWhereTheyAre) {
  const ThreadPlan plan = ThreadingOptimizer({.intra_op = 2, .blas_on_openmp = false}).plan();
  EXPECT_FALSE(plan.blas_on_openmp);
  EXPECT_NE(plan.explain().find("blas_on_openmp = 0: the option blas_on_openmp says so"), std::string::npos);
}

TEST(NoSharedTeamTest, APlanThatCannotBeHadIsTold) {
  if (can_share_openmp_team()) GTEST_SKIP() << "it can be had here";
  EXPECT_FALSE(share_openmp_team(true));
  EXPECT_TRUE(share_openmp_team(false));
  const ThreadingOptimizer optimizer({.verbose = false});
  ThreadPlan plan = optimizer.plan();
  EXPECT_FALSE(plan.blas_on_openmp);
  plan.blas_on_openmp = true;
  const AppliedPlan applied = optimizer.apply(plan);
  EXPECT_FALSE(applied.plan().blas_on_openmp);
  EXPECT_NE(applied.plan().explain().find("products of matrices stay on BLAS's own threads"), std::string::npos);
}

}  // namespace
}  // namespace torchfeed::threading
