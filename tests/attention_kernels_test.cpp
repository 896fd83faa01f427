#include <gtest/gtest.h>
#include <torchfeed/plugin/threading/attention_kernels.h>

#if __has_include(<ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>)

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>

#include <atomic>
#include <vector>

namespace torchfeed::threading {
namespace {

/// The result and the gradients of queries, keys and values.
std::vector<at::Tensor> attention() {
  at::manual_seed(1);
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < 3; ++i) inputs.push_back(at::randn({2, 4, 256, 32}).requires_grad_());
  at::Tensor result = at::scaled_dot_product_attention(inputs[0], inputs[1], inputs[2]);
  std::vector<at::Tensor> all = torch::autograd::grad({result.square().sum()}, inputs);
  all.push_back(result.detach());
  return all;
}

std::atomic<int> shared_out{0};

void count_and_run(int sync, RunBlasPart run, int parts, std::size_t part_bytes, void* first, int argument) noexcept {
  ++shared_out;
  run_blas_parts(sync, run, parts, part_bytes, first, argument);
}

void set_others(decltype(&run_blas_parts) run) {
  reinterpret_cast<void (*)(decltype(run))>(blas_symbol("openblas_set_threads_callback_function"))(run);
}

class AttentionKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_share_openmp_team()) GTEST_SKIP() << "this BLAS library lets nobody else run its parts";
    at::set_num_threads(2);
    blas_before_ = *blas_num_threads();
    ASSERT_TRUE(set_blas_num_threads(2));
  }
  void TearDown() override {
    if (IsSkipped()) return;
    set_others(nullptr);
    share_openmp_team(false);
    set_blas_num_threads(blas_before_);
    at::set_num_threads(aten_before_);
  }
  const int aten_before_ = at::get_num_threads();
  int blas_before_ = 1;
};

TEST_F(AttentionKernelsTest, AttentionIsTheSameOnOneBlasThreadEachAndTellsNothing) {
  const std::vector<at::Tensor> before = attention();
  ::testing::internal::CaptureStderr();
  give_attention_one_blas_thread();
  give_attention_one_blas_thread();
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_TRUE(share_openmp_team(true));
  set_others(count_and_run);
  const std::vector<at::Tensor> after = attention();
  EXPECT_EQ(shared_out, 0) << "no product of attention's is shared out";
  at::mm(at::ones({256, 256}), at::ones({256, 256}));
  EXPECT_EQ(shared_out, 1) << "others are, as before";
  EXPECT_EQ(blas_num_threads(), 2);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::allclose(after[i], before[i], 1e-4, 1e-5)) << i;
}

TEST_F(AttentionKernelsTest, OneOpenMpThreadTakesAllOfBlass) {
  give_attention_one_blas_thread();
  ASSERT_TRUE(share_openmp_team(true));
  at::set_num_threads(1);
  set_others(count_and_run);
  shared_out = 0;
  attention();
  EXPECT_GT(shared_out, 0);
}

}  // namespace
}  // namespace torchfeed::threading

#else

TEST(AttentionKernelsTest, WithoutTheOperatorNothingIsDoneAndNothingTold) {
  ::testing::internal::CaptureStderr();
  EXPECT_NO_THROW(torchfeed::threading::give_attention_one_blas_thread());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

#endif
