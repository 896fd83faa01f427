#include <torchfeed/plugin/stack.h>

#include <ATen/ATen.h>

#include <gtest/gtest.h>

#include <vector>

namespace torchfeed {
namespace {

void expect_stacked(const std::vector<at::Tensor>& tensors) {
  const at::Tensor batch = stack_into_batch(tensors);
  const at::Tensor expected = at::stack(tensors);
  EXPECT_EQ(batch.dtype(), expected.dtype());
  EXPECT_EQ(batch.sizes(), expected.sizes());
  EXPECT_TRUE(at::equal(batch, expected)) << batch << expected;
}

TEST(Stack, GivesWhatAtensStackGivesForSamplesOfEachTypeAndSize) {
  for (const auto type : {at::kByte, at::kShort, at::kInt, at::kLong, at::kHalf, at::kFloat, at::kDouble}) {
    for (const std::vector<std::int64_t>& size : {std::vector<std::int64_t>{}, {7}, {3, 5}, {2, 0, 4}, {200, 100}}) {
      std::vector<at::Tensor> samples;
      for (int i = 0; i < 5; ++i) {
        samples.push_back(at::randint(0, 100, size, type));
      }
      expect_stacked(samples);
    }
  }
}

TEST(Stack, ReadsSamplesAsTheyAreMeantHoweverTheyLieInMemory) {
  const at::Tensor table = at::arange(60, at::kFloat).view({6, 10});
  expect_stacked({table.slice(0, 0, 3), table.slice(0, 2, 5)});  // rows that overlap
  expect_stacked({table.t(), table.t()});
  expect_stacked({table.t(), table.t().contiguous()});
  expect_stacked({table.slice(1, 0, 10, 2), table.slice(1, 1, 10, 2)});
  expect_stacked({table[0].expand({4, 10}), table[1].expand({4, 10})});
  const at::Tensor complex = at::complex(table, table + 1);
  expect_stacked({complex.conj(), complex});
  expect_stacked({at::imag(complex.conj()), at::imag(complex)});
  expect_stacked({at::_efficientzerotensor({6, 10}), table});  // has no memory
}

TEST(Stack, RefusesSamplesThatDoNotGoTogetherAsAtensStackDoes) {
  EXPECT_THROW(stack_into_batch({}), c10::Error);
  EXPECT_THROW(stack_into_batch({at::zeros({2}), at::zeros({3})}), c10::Error);
  EXPECT_THROW(stack_into_batch({at::zeros({2, 3}), at::zeros({3, 2})}), c10::Error);
  EXPECT_THROW(stack_into_batch({at::zeros({2}).requires_grad_(), at::zeros({2})}), c10::Error);
}

}  // namespace
}  // namespace torchfeed
