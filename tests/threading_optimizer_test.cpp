#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace torchfeed {
namespace {

constexpr ThreadingOptions kQuiet{.verbose = false};
/// For which idle threads of OpenMP's are to sleep on any number of cores.
constexpr Workload kLargeTensors{.activation_bytes = std::uint64_t{64} << 20};

bool has_reason(const ThreadPlan& plan, const std::string& text) {
  return plan.explain().find(text) != std::string::npos;
}

/// Counts of threads belong to the process, and the inter-op pool is sized once: what sets them runs in this program
/// started anew, with the variables that the test has set.
class ThreadingOptimizerDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override {
    for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"}) unsetenv(name);
  }
};

/// Ends the child with success where `condition` holds, and with the plan on stderr where not.
[[noreturn]] void finish(bool condition, const ThreadPlan& plan) {
  if (!condition) std::fputs(plan.explain().c_str(), stderr);
  _exit(condition ? 0 : 1);
}

std::string refusal(ThreadingOptions options) {
  try {
    ThreadingOptimizer optimizer(options);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "none";
}

TEST(ThreadingOptimizerTest, CountsOutsideTheirRangeAreRefusedWithExpectedAndGot) {
  EXPECT_EQ(refusal({.intra_op = -1}), "ThreadingOptions: expected intra_op from 0 to 4096, got -1");
  EXPECT_EQ(refusal({.intra_op = 4097}), "ThreadingOptions: expected intra_op from 0 to 4096, got 4097");
  EXPECT_EQ(refusal({.inter_op = -7}), "ThreadingOptions: expected inter_op from 0 to 4096, got -7");
  EXPECT_EQ(refusal({.intra_op = 4096, .inter_op = 4096}), "none");
  EXPECT_THROW(optimize_system_for_training({.intra_op = -1}), c10::Error);
}

TEST(ThreadingOptimizerTest, TheWorkersForEachJobAreThePlans) {
  const ThreadingOptimizer optimizer(kQuiet);
  const Workload large{.dataset_size = 10'000'000};
  const ThreadPlan plan = optimizer.plan(large);
  const WorkerCounts counts = optimizer.calculate_optimal_workers(large);
  EXPECT_EQ(counts.dataloader, plan.dataloader);
  EXPECT_EQ(counts.training, plan.training);
  EXPECT_EQ(counts.preprocessing, plan.preprocessing);
  EXPECT_EQ(counts.inference, plan.inference);
  EXPECT_LE(counts.training, plan.physical_cores);
}

TEST(ThreadingOptimizerTest, ALoadersOptionsAreThoseOfItsData) {
  const ThreadingOptimizer optimizer(kQuiet);
  const DataLoaderConfig tiny = optimizer.data_loader_config(100, 10);
  EXPECT_EQ(tiny.num_workers, 0);
  EXPECT_FALSE(tiny.pin_memory) << "without a GPU";
  const DataLoaderConfig large = optimizer.data_loader_config(10'000'000, 32, 4096);
  EXPECT_EQ(large.num_workers,
            optimizer.plan({.dataset_size = 10'000'000, .batch_size = 32, .sample_bytes = 4096}).dataloader);
  EXPECT_FALSE(large.reasons.empty());
  EXPECT_THROW(optimizer.data_loader_config(-1, 32), c10::Error);
  EXPECT_THROW(optimizer.data_loader_config(1, 1, 1, -1), c10::Error);
}

TEST(ThreadingOptimizerTest, APlanWithACountOutOfRangeIsNotApplied) {
  const ThreadingOptimizer optimizer(kQuiet);
  ThreadPlan plan = optimizer.plan();
  plan.intra_op = 0;
  EXPECT_THROW(static_cast<void>(optimizer.apply(plan)), c10::Error);
}

TEST(ThreadingOptimizerTest, PlanningChangesNothing) {
  const int aten = at::get_num_threads();
  const auto blas = threading::blas_num_threads();
  const ThreadPlan plan = ThreadingOptimizer({.intra_op = aten + 1}).plan();
  EXPECT_EQ(plan.intra_op, aten + 1);
  EXPECT_EQ(at::get_num_threads(), aten);
  EXPECT_EQ(threading::blas_num_threads(), blas);
}

TEST(ThreadingOptimizerTest, TheExplanationNamesEveryNumberAndItsReason) {
  const ThreadPlan plan = ThreadingOptimizer({.intra_op = 3}).plan();
  EXPECT_TRUE(has_reason(plan, "physical_cores = " + std::to_string(plan.physical_cores)));
  EXPECT_TRUE(has_reason(plan, "logical_cores = " + std::to_string(plan.logical_cores)));
  EXPECT_TRUE(has_reason(plan, "\n  intra_op = 3: asked for by the option intra_op"));
  EXPECT_TRUE(has_reason(plan, "\n  inter_op = " + std::to_string(plan.inter_op) + ": "));
  EXPECT_TRUE(has_reason(plan, "\n  blas = " + std::to_string(plan.blas) + ": "));
  EXPECT_TRUE(has_reason(plan, "\n  dataloader = " + std::to_string(plan.dataloader) + ": "));
}

TEST(ThreadingOptimizerTest, TheGuardPutsTheCountsBack) {
  const int aten = at::get_num_threads();
  const auto blas = threading::blas_num_threads();
  const ThreadingOptimizer optimizer(
      {.intra_op = aten + 1, .inter_op = static_cast<int>(at::get_num_interop_threads())});
  {
    const AppliedPlan applied = optimizer.apply(optimizer.plan());
    EXPECT_EQ(applied.plan().intra_op, aten + 1);
    EXPECT_EQ(at::get_num_threads(), aten + 1);
  }
  EXPECT_EQ(at::get_num_threads(), aten);
  EXPECT_EQ(threading::blas_num_threads(), blas);
}

TEST_F(ThreadingOptimizerDeathTest, TheMachinesCoresAreSetAndReadBack) {
  EXPECT_EXIT(
      {
        const ThreadPlan plan = optimize_system_for_training(kQuiet);
        finish(plan.intra_op == at::get_num_threads() &&
                   plan.inter_op == static_cast<int>(at::get_num_interop_threads()) &&
                   plan.intra_op <= plan.physical_cores && plan.blas == threading::blas_num_threads().value_or(0) &&
                   at::mm(at::ones({64, 64}), at::ones({64, 64})).eq(64).all().item<bool>(),
               plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, OneCpuInTheMaskMeansOneThread) {
  EXPECT_EXIT(
      {
        threading::bind_current_thread({threading::available_cpus().back()});
        const ThreadPlan plan = optimize_system_for_training(kQuiet);
        finish(plan.physical_cores == 1 && at::get_num_threads() == 1 && plan.dataloader == 0, plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, TheEnvironmentWinsAndIsNamed) {
  setenv("OMP_NUM_THREADS", "3", 1);
  setenv("OPENBLAS_NUM_THREADS", "2", 1);
  EXPECT_EXIT(
      {
        const ThreadPlan plan = optimize_system_for_training(kQuiet);
        const bool openblas = threading::blas_library() == threading::BlasLibrary::kOpenBlas;
        finish(at::get_num_threads() == 3 && has_reason(plan, "intra_op = 3: the environment's OMP_NUM_THREADS") &&
                   (!openblas || threading::blas_num_threads() == 2),
               plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, AnOptionGoesBeforeTheEnvironment) {
  setenv("OMP_NUM_THREADS", "3", 1);
  EXPECT_EXIT(
      {
        const ThreadPlan plan = optimize_system_for_training({.intra_op = 2, .verbose = false});
        finish(at::get_num_threads() == 2 && has_reason(plan, "goes before OMP_NUM_THREADS=3"), plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, ASecondCallChangesNothingAndParksNoMoreThreads) {
  EXPECT_EXIT(
      {
        const ThreadPlan first = optimize_system_for_training({.intra_op = 2, .verbose = false});
        const int parked = threading::shorten_openmp_spinning(2).parked_threads;
        const ThreadPlan second = optimize_system_for_training({.intra_op = 2, .verbose = false});
        finish(second.intra_op == first.intra_op && second.inter_op == first.inter_op && second.blas == first.blas &&
                   threading::shorten_openmp_spinning(2).parked_threads == parked && !has_reason(second, "stays"),
               second);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, ASecondPlanKeepsWhatTheFirstHasBound) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer(kQuiet);
        ThreadPlan plan = optimizer.plan();
        plan.intra_op = plan.training = 1;
        plan.trainer_cpus = {all.front()};
        plan.dataloader_cpus = {all.back()};
        plan.dataloader = 1;
        const AppliedPlan first = optimizer.apply(plan);
        const ThreadPlan second = optimize_system_for_training({.verbose = false});
        finish(second.intra_op == 1 && at::get_num_threads() == 1 && second.trainer_cpus == plan.trainer_cpus &&
                   second.dataloader_cpus == plan.dataloader_cpus && threading::thread_cpus() == plan.trainer_cpus &&
                   thread_plan_in_force()->dataloader_cpus == plan.dataloader_cpus,
               second);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, AForkedChildsCopyOfAPlanInForcePutsNothingBack) {
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer(kQuiet);
        ThreadPlan plan = optimizer.plan();
        plan.intra_op = at::get_num_threads() + 1;
        auto applied = std::make_unique<AppliedPlan>(optimizer.apply(plan));
        const pid_t child = ::fork();
        if (child == 0) {
          applied.reset();
          _exit(at::get_num_threads() == plan.intra_op ? 0 : 1);
        }
        int status = -1;
        ::waitpid(child, &status, 0);
        applied.reset();
        finish(status == 0 && at::get_num_threads() == plan.intra_op - 1, plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, AnInterOpPoolThatIsAlreadySizedIsToldNotHidden) {
  EXPECT_EXIT(
      {
        // Not LibTorch's own number, which would size nothing.
        const int sized = at::get_num_interop_threads() == 2 ? 4 : 2;
        optimize_system_for_training({.inter_op = sized, .verbose = false});
        const ThreadPlan plan = optimize_system_for_training({.inter_op = 3, .verbose = false});
        finish(plan.inter_op == sized && static_cast<int>(at::get_num_interop_threads()) == sized &&
                   has_reason(plan, "inter_op stays " + std::to_string(sized) + ", not 3"),
               plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, TheExplanationGoesToStderr) {
  EXPECT_EXIT(
      {
        optimize_system_for_training({.intra_op = 2});
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "torchfeed: threads for training\n.*\n  intra_op = 2: asked for");
}

TEST_F(ThreadingOptimizerDeathTest, WithoutVerboseNothingIsPrinted) {
  EXPECT_EXIT(
      {
        optimize_system_for_training(kQuiet);
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "^$");
}

TEST_F(ThreadingOptimizerDeathTest, TheUsersWaitPolicyIsLeftAlone) {
  setenv("OMP_WAIT_POLICY", "active", 1);
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer({.intra_op = 2});
        ThreadPlan plan = optimizer.plan(kLargeTensors);
        plan.short_spinning = true;  // wherever BLAS's products run
        plan = optimizer.apply(plan).plan();
        finish(threading::shorten_openmp_spinning(2).parked_threads == 0 &&
                   has_reason(plan, "OMP_WAIT_POLICY=active decides"),
               plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadingOptimizerDeathTest, AProcessWithParkedThreadsEndsNormally) {
  EXPECT_EXIT(
      {
        optimize_system_for_training({.intra_op = 2, .verbose = false}, kLargeTensors);
        std::exit(at::ones({100'000}).sum().item<float>() == 100'000 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace torchfeed
