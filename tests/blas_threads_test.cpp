#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>

namespace torchfeed::threading {
namespace {

int thread_count() {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}));
}

/// Runs every kind of operator that has threads of its own. Returns whether the results are right.
bool run_operators() {
  const bool product = at::mm(at::ones({256, 256}), at::ones({256, 256})).eq(256).all().item<bool>();
  const bool batched = at::bmm(at::ones({8, 64, 64}), at::ones({8, 64, 64})).eq(64).all().item<bool>();
  const bool convolved = at::conv2d(at::ones({4, 3, 32, 32}), at::ones({8, 3, 3, 3})).eq(27).all().item<bool>();
  const bool sorted = std::get<0>(at::sort(at::rand({100'000})))[0].item<float>() >= 0;
  const bool summed = at::ones({1'000'000}).sum().item<float>() == 1'000'000;
  return product && batched && convolved && sorted && summed;
}

class BlasThreadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!blas_num_threads()) GTEST_SKIP() << "no BLAS library with threads of its own";
    before_ = *blas_num_threads();
  }
  void TearDown() override {
    if (before_ > 0) set_blas_num_threads(before_);
  }
  int before_ = 0;
};

TEST_F(BlasThreadsTest, TheLibraryHasANameOfItsOwn) {
  EXPECT_NE(blas_library(), BlasLibrary::kNone);
  EXPECT_STRNE(blas_library_name(blas_library()), blas_library_name(BlasLibrary::kNone));
}

TEST_F(BlasThreadsTest, ACountThatIsSetIsReadBack) {
  if (blas_library() == BlasLibrary::kOpenBlasOnOpenMp) GTEST_SKIP() << "follows OpenMP";
  for (const int count : {1, 2, 1}) {
    EXPECT_TRUE(set_blas_num_threads(count));
    EXPECT_EQ(blas_num_threads(), count);
  }
}

TEST_F(BlasThreadsTest, SettingAtensCountLeavesBlasAsItIs) {
  if (blas_library() != BlasLibrary::kOpenBlas) GTEST_SKIP() << "not OpenBLAS with its own threads";
  const int aten = at::get_num_threads();
  ASSERT_TRUE(set_blas_num_threads(2));
  at::set_num_threads(1);
  EXPECT_EQ(blas_num_threads(), 2);
  at::set_num_threads(aten);
}

TEST_F(BlasThreadsTest, CountsBelowOneAreRefused) {
  EXPECT_FALSE(set_blas_num_threads(0));
  EXPECT_FALSE(set_blas_num_threads(-1));
  EXPECT_EQ(blas_num_threads(), before_);
}

TEST_F(BlasThreadsTest, ACountBeyondTheLibrarysLimitIsToldNotHidden) {
  const bool done = set_blas_num_threads(1 << 20);
  EXPECT_EQ(done, blas_num_threads() == 1 << 20);
}

TEST_F(BlasThreadsTest, TheScopeHoldsOneThreadAndPutsTheCountBack) {
  if (blas_library() == BlasLibrary::kOpenBlasOnOpenMp) GTEST_SKIP() << "follows OpenMP";
  ASSERT_TRUE(set_blas_num_threads(2));
  {
    const SingleThreadedBlasScope scope;
    EXPECT_EQ(blas_num_threads(), 1);
  }
  EXPECT_EQ(blas_num_threads(), 2);
}

TEST_F(BlasThreadsTest, ScopesOfSeveralThreadsMayOverlapAndTheLastPutsTheCountBack) {
  if (blas_library() == BlasLibrary::kOpenBlasOnOpenMp) GTEST_SKIP() << "follows OpenMP";
  ASSERT_TRUE(set_blas_num_threads(2));
  auto first = std::make_unique<SingleThreadedBlasScope>();
  auto second = std::make_unique<SingleThreadedBlasScope>();
  first.reset();
  EXPECT_EQ(blas_num_threads(), 1) << "one is left";
  EXPECT_EQ(usual_blas_num_threads(), 2);
  EXPECT_TRUE(set_blas_num_threads(3));
  EXPECT_EQ(blas_num_threads(), 1) << "noted for later";
  EXPECT_EQ(usual_blas_num_threads(), 3);
  second.reset();
  EXPECT_EQ(blas_num_threads(), 3);
  EXPECT_EQ(usual_blas_num_threads(), 3);
}

/// A child of the scope, and a child of that child, as a fork server's worker is.
void run_in_child(int depth) {
  pid_t child;
  {
    const SingleThreadedBlasScope scope;
    child = fork();
  }
  if (child == 0) {
    alarm(60);
    const int started_with = thread_count();
    at::set_num_threads(1);
    bool good = run_operators() && run_operators() && thread_count() == started_with;
    if (!good) std::fprintf(stderr, "depth %d: threads %d, then %d\n", depth, started_with, thread_count());
    if (good && depth > 1) {
      const pid_t grandchild = fork();
      if (grandchild == 0) _exit(run_operators() && thread_count() == started_with ? 0 : 2);
      int status = -1;
      good = waitpid(grandchild, &status, 0) == grandchild && status == 0;
    }
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "exit " << WEXITSTATUS(status) << ", signal " << WTERMSIG(status);
}

// Its threads would spin on a core in vain, and where the system refused them the next fork would wait for them.
TEST_F(BlasThreadsTest, AScopeStartsNoThreadWhereAForkHasEndedThePool) {
  if (blas_library() != BlasLibrary::kOpenBlas) GTEST_SKIP() << "not OpenBLAS with its own threads";
  ASSERT_TRUE(set_blas_num_threads(2));
  ASSERT_TRUE(run_operators());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const int alone = thread_count();
    int within = 0;
    {
      const SingleThreadedBlasScope scope;
      within = *blas_num_threads();
    }
    const bool good = within == 1 && *blas_num_threads() == 2 && thread_count() == alone;
    at::set_num_threads(1);  // OpenMP's team is not there either, but it waits for that
    const bool right = at::mm(at::ones({512, 512}), at::ones({512, 512})).eq(512).all().item<bool>();
    _exit(good ? (right ? 0 : 2) : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "exit " << WEXITSTATUS(status) << ", signal " << WTERMSIG(status);
}

TEST_F(BlasThreadsTest, AForkedChildAndItsChildComputeWithoutStartingAThread) {
  const int aten = at::get_num_threads();
  at::set_num_threads(2);
  set_blas_num_threads(2);
  const int blas = *blas_num_threads();
  ASSERT_TRUE(run_operators());  // every pool of the parent is running
  run_in_child(2);
  EXPECT_EQ(blas_num_threads(), blas);
  EXPECT_EQ(at::get_num_threads(), 2);
  EXPECT_TRUE(run_operators()) << "in the parent, after the fork";
  at::set_num_threads(aten);
}

}  // namespace
}  // namespace torchfeed::threading
