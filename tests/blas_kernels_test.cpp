#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/planner.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace torchfeed {
namespace {

using threading::better_blas_kernels;
using threading::CpuFeatures;

/// OpenBLAS's choice is the process's: what changes it runs in this program started anew.
class BlasKernelsDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    unsetenv("OPENBLAS_CORETYPE");
  }
  void TearDown() override { unsetenv("OPENBLAS_CORETYPE"); }
};

/// Kernels that every x86-64 processor runs, and Debian's OpenBLAS has.
constexpr const char* kOldest = "Prescott";

bool can_choose() {
#if defined(__x86_64__)
  return !threading::blas_kernels().empty();
#else
  return false;
#endif
}

/// How far a product of random matrices is from the same in double.
double error_of_product() {
  at::manual_seed(1);
  const at::Tensor a = at::randn({150, 170});
  const at::Tensor b = at::randn({170, 190});
  const at::Tensor exact = (a.to(at::kDouble).unsqueeze(2) * b.to(at::kDouble).unsqueeze(0)).sum(1);
  return (at::mm(a, b).to(at::kDouble) - exact).abs().max().item<double>();
}

TEST(BlasKernelsTest, KernelsWithoutAvxAreReplacedByWhatTheProcessorCan) {
  EXPECT_EQ(better_blas_kernels("Prescott", {.avx2 = true, .avx512 = true}), "SkylakeX");
  EXPECT_EQ(better_blas_kernels("Prescott", {.avx2 = true, .avx512 = false}), "Haswell");
  EXPECT_EQ(better_blas_kernels("Nehalem", {.avx2 = true, .avx512 = false}), "Haswell");
}

TEST(BlasKernelsTest, KernelsThatSuitAndThoseOfUnknownNamesStay) {
  for (const char* name : {"Haswell", "SkylakeX", "Cooperlake", "SapphireRapids", "Zen", "neoversen1", ""})
    EXPECT_EQ(better_blas_kernels(name, {.avx2 = true, .avx512 = true}), "") << name;
  EXPECT_EQ(better_blas_kernels("Prescott", {}), "") << "an old processor";
}

TEST(BlasKernelsTest, ThePlanNamesThemAndWhy) {
  threading::PlanInputs inputs;
  inputs.topology = threading::topology_from_synthetic("core:2 pu:1");
  inputs.blas_kernels = "Prescott";
  inputs.features = {.avx2 = true, .avx512 = true};
  const ThreadPlan plan = threading::plan_threads(inputs);
  EXPECT_EQ(plan.blas_kernels, "SkylakeX");
  EXPECT_NE(plan.explain().find("blas_kernels = SkylakeX: OpenBLAS runs its kernels for Prescott, without AVX, as it "
                                "does not know this processor"),
            std::string::npos)
      << plan.explain();
  inputs.variables.blas_kernels = "Prescott";
  EXPECT_EQ(threading::plan_threads(inputs).blas_kernels, "") << "the user's OPENBLAS_CORETYPE";
}

TEST_F(BlasKernelsDeathTest, AreChosenAnewReadBackAndMultiplyRight) {
  if (!can_choose()) GTEST_SKIP() << "needs an OpenBLAS for x86-64 that chooses its kernels";
  EXPECT_EXIT(
      {
        const std::string before = threading::blas_kernels();
        const bool set = threading::set_blas_kernels(kOldest) && threading::blas_kernels() == kOldest;
        const double error = error_of_product();
        const bool back = threading::set_blas_kernels(before) && threading::blas_kernels() == before;
        const bool silent = std::getenv("OPENBLAS_CORETYPE") == nullptr;
        std::fprintf(stderr, "%d %d %d, error %g", set, back, silent, error);
        _exit(set && back && silent && error < 1e-3 && error_of_product() < 1e-3 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(BlasKernelsDeathTest, OfAProcessorThatOpenBlasDoesNotKnowAreRefusedAndAllIsAsBefore) {
  if (!can_choose()) GTEST_SKIP() << "needs an OpenBLAS for x86-64 that chooses its kernels";
  EXPECT_EXIT(
      {
        const std::string before = threading::blas_kernels();
        const bool refused = !threading::set_blas_kernels("Abacus");
        _exit(refused && threading::blas_kernels() == before && error_of_product() < 1e-3 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(BlasKernelsDeathTest, ArePutBackWithThePlan) {
  if (!can_choose()) GTEST_SKIP() << "needs an OpenBLAS for x86-64 that chooses its kernels";
  EXPECT_EXIT(
      {
        const std::string before = threading::blas_kernels();
        const ThreadingOptimizer optimizer({.verbose = false});
        ThreadPlan plan = optimizer.plan();
        plan.blas_kernels = kOldest;
        bool set = false;
        {
          const AppliedPlan applied = optimizer.apply(plan);
          set = threading::blas_kernels() == kOldest && applied.plan().blas_kernels == kOldest;
        }
        _exit(set && threading::blas_kernels() == before ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(BlasKernelsDeathTest, SuitTheProcessorOnceTheSystemIsOptimized) {
  EXPECT_EXIT(
      {
        const ThreadPlan plan = optimize_system_for_training({.verbose = false});
        const std::string now = threading::blas_kernels();
        std::fprintf(stderr, "%s\n%s", now.c_str(), plan.explain().c_str());
        _exit(better_blas_kernels(now, threading::cpu_features()).empty() && error_of_product() < 1e-3 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(BlasKernelsDeathTest, StayWhereTheOptionOrTheUserSaysSo) {
  if (!can_choose()) GTEST_SKIP() << "needs an OpenBLAS for x86-64 that chooses its kernels";
  setenv("OPENBLAS_CORETYPE", kOldest, 1);
  EXPECT_EXIT(
      {
        optimize_system_for_training({.verbose = false});
        const bool users = threading::blas_kernels() == kOldest;
        unsetenv("OPENBLAS_CORETYPE");
        optimize_system_for_training({.blas_kernels = false, .verbose = false});
        _exit(users && threading::blas_kernels() == kOldest ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace torchfeed
