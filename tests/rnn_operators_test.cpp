#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torchfeed/plugin/calibrate.h>
#include <torchfeed/plugin/rnn/operators.h>
#include <torchfeed/plugin/threading/onednn_settings.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/expect_in_child.h"
#include "support/rnn_call.h"
#include "support/sanitized.h"

namespace torchfeed::rnn {
namespace {

TEST_F(RnnTest, CalibrateKeepsItWhereItPaysAndLeavesItWhereTheOptionSaysNo) {
  if (!threading::onednn_primitive_cache()) GTEST_SKIP() << "LibTorch's oneDNN is its own";
  use_onednn(false);
  CalibrationOptions options;
  options.verbose = false;
  double time = 0;  // a clock of its own, on which recurrent layers take a third of the time in oneDNN
  options.now = [&] { return time; };
  const auto step = [&] { time += onednn_is_used() ? 0.001 : 0.003; };
  options.threading.onednn_rnn = false;
  EXPECT_FALSE(calibrate(step, options).plan.onednn_rnn);
  EXPECT_FALSE(onednn_is_used());
  options.threading.onednn_rnn = true;
  const Calibration result = calibrate(step, options);
  EXPECT_TRUE(result.plan.onednn_rnn);
  EXPECT_TRUE(onednn_is_used()) << result.explain();
  options.threading.onednn_rnn = false;
  EXPECT_FALSE(calibrate(step, options).plan.onednn_rnn);
  EXPECT_FALSE(onednn_is_used()) << "an earlier plan's";
}

TEST_F(RnnTest, BelowAutogradNothingIsRecorded) {
  const RnnCall call({});
  call.require_gradients();
  {
    const at::AutoDispatchBelowAutograd below;
    EXPECT_FALSE(call.run()[0].requires_grad());
  }
  // LibTorch's operators do not record either, or refuse to.
  const c10::InferenceMode inference;
  const at::AutoGradMode gradients(true);
  const auto [in_onednn, in_libtorch] = both_ways([&]() -> std::string {
    try {
      return call.run()[0].requires_grad() ? "recorded" : "not recorded";
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
  });
  EXPECT_EQ(in_onednn, in_libtorch);
}

TEST_F(RnnTest, ErrorsAreLibTorchs) {
  const auto message = [](const RnnCall& call) {
    try {
      call.run();
    } catch (const c10::Error& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("no error");
  };
  std::vector<RnnCall> calls(5, RnnCall({}));
  calls[0].input = at::randn({7, 3, 9});        // another number of inputs
  calls[1].states[0] = at::randn({1, 2, 5});    // another batch
  calls[2].parameters.pop_back();               // a bias is missing
  calls[3].parameters[1] = at::randn({15, 4});  // another hidden size
  calls[4].input = at::randn({7, 4});
  for (const RnnCall& call : calls) {
    const auto [in_onednn, in_libtorch] = both_ways([&] { return message(call); });
    EXPECT_EQ(in_onednn, in_libtorch);
  }
}

/// Whether results are LibTorch's to the bit.
void expect_libtorchs_way(const std::function<std::vector<at::Tensor>()>& compute) {
  EXPECT_FALSE(computes_in_onednn([&] { compute(); }));
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  for (size_t i = 0; i < in_onednn.size(); ++i) EXPECT_TRUE(at::equal(in_onednn[i], in_libtorch[i])) << i;
}

TEST_F(RnnTest, WhatIsNotForItGoesLibTorchsWay) {
  expect_libtorchs_way([call = RnnCall({}, at::kDouble)] { return call.run(); });
  expect_libtorchs_way([call = RnnCall({.length = 1})] { return call.run(); });
  expect_libtorchs_way([call = RnnCall({.length = 2, .batch = 64, .hidden = 256})] { return call.run(); });
  expect_libtorchs_way(
      [call = RnnCall({.length = 2, .batch = 64, .inputs = 1024, .hidden = 32})] { return call.run(); });
  expect_libtorchs_way([call = RnnCall({.length = 2, .batch = 1, .hidden = 256})] { return call.run(); });
  expect_libtorchs_way([call = RnnCall({.batch = 512, .hidden = 4})] { return call.run(); });
  const RnnCall call({});
  {
    const c10::impl::IncludeDispatchKeyGuard autocast(c10::DispatchKey::AutocastCPU);
    c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, false);
    EXPECT_FALSE(computes_in_onednn([&] { call.run(); }));
    c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, true);
  }
  at::globalContext().setUserEnabledMkldnn(false);
  expect_libtorchs_way([&] { return call.run(); });
  at::globalContext().setUserEnabledMkldnn(true);
  EXPECT_TRUE(computes_in_onednn([&] { call.run(); }));
  use_onednn(false);
  EXPECT_FALSE(computes_in_onednn([&] { call.run(); }));
}

TEST_F(RnnTest, ModulesAndTorchScriptUseIt) {
  torch::nn::GRU gru(torch::nn::GRUOptions(4, 8).num_layers(2).batch_first(true));
  const at::Tensor input = torch::randn({3, 9, 4});
  EXPECT_TRUE(computes_in_onednn([&] { std::get<0>(gru->forward(input)).sum().backward(); }));
  for (const at::Tensor& parameter : gru->parameters()) EXPECT_GT(parameter.grad().abs().sum().item<float>(), 0);

  const auto script = torch::jit::compile(R"(
    def states(x, h, weights: List[Tensor]):
        return torch.gru(x, h, weights, True, 1, 0.0, False, False, True)[0]
  )");
  const at::Tensor state = torch::zeros({1, 3, 8});
  c10::List<at::Tensor> weights;
  for (const char* const name : {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"})
    weights.push_back(gru->named_parameters()[name]);
  EXPECT_TRUE(computes_in_onednn([&] {
    for (int i = 0; i < 4; ++i) script->run_method("states", input, state, weights).toTensor().sum().backward();
  }));
}

TEST_F(RnnTest, ThreadsComputeBesideEachOther) {
  const RnnCall call({.length = 30, .batch = 8, .inputs = 6, .hidden = 16});
  const std::vector<at::Tensor> expected = call.run();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) right += at::equal(call.run()[0], expected[0]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
}

TEST_F(RnnTest, APlanHasItUsedAndPutsItBack) {
  use_onednn(false);
  const ThreadingOptimizer optimizer({.verbose = false});
  const bool reached = threading::onednn_primitive_cache().has_value();
  {
    const AppliedPlan applied = optimizer.apply(optimizer.plan());
    EXPECT_EQ(applied.plan().onednn_rnn, reached);
    EXPECT_EQ(onednn_is_used(), reached);
    EXPECT_NE(applied.plan().explain().find(reached ? "onednn_rnn = 1: " : "onednn_rnn stays 0"), std::string::npos);
    const ThreadingOptimizer without({.onednn_rnn = false, .verbose = false});
    const AppliedPlan off = without.apply(without.plan());
    EXPECT_FALSE(off.plan().onednn_rnn);
    EXPECT_FALSE(onednn_is_used());
  }
  EXPECT_FALSE(onednn_is_used());
}

TEST_F(RnnTest, AForkedChildComputesTheSame) {
  if (testing::kThreadSanitized) GTEST_SKIP() << "not with ThreadSanitizer";
  at::set_num_threads(2);
  const RnnCall call({.length = 30, .batch = 8, .inputs = 6, .hidden = 16});
  for (const bool recorded : {false, true}) {
    if (recorded) call.require_gradients();  // backward() is refused in a child of what has used autograd
    const std::vector<at::Tensor> expected = call.run();
    expect_in_child([&] {
      const std::vector<at::Tensor> results = call.run();
      return at::equal(results[0], expected[0]) && at::equal(results[1], expected[1]);
    });
  }
}

}  // namespace
}  // namespace torchfeed::rnn
