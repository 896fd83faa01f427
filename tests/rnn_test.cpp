#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torchfeed/plugin/rnn/operators.h>

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "support/rnn_call.h"

namespace torchfeed::rnn {
namespace {

class RnnSettingsTest : public RnnTest, public ::testing::WithParamInterface<RnnSetting> {};

TEST_P(RnnSettingsTest, ResultsAndGradientsAreLibTorchs) {
  const RnnCall call(GetParam());
  const auto [in_onednn, in_libtorch] = both_ways([&] { return results_and_gradients(call); });
  expect_close(in_onednn, in_libtorch);
  if (kLstm || !GetParam().lstm) {
    EXPECT_TRUE(computes_in_onednn([&] { call.run(); }));
  }
}

TEST_P(RnnSettingsTest, WithoutGradientsResultsAreTheSame) {
  const RnnCall call(GetParam());
  for (const bool inference : {false, true}) {
    const auto compute = [&] {
      const torch::NoGradGuard no_gradients;
      const c10::InferenceMode mode(inference);
      return RnnCall(call).run();
    };
    const auto [in_onednn, in_libtorch] = both_ways(compute);
    const torch::NoGradGuard no_gradients;
    expect_close(in_onednn, in_libtorch);
    if (kLstm || !GetParam().lstm) {
      EXPECT_TRUE(computes_in_onednn(compute));
    }
  }
}

std::vector<RnnSetting> settings() {
  std::vector<RnnSetting> all{{.name = "Plain"},
                              {.name = "WithoutBiases", .biases = false},
                              {.name = "BatchFirst", .batch_first = true},
                              {.name = "Bidirectional", .bidirectional = true},
                              {.name = "Layers", .layers = 3},
                              {.name = "LayersWithDropout", .layers = 2, .dropout = 0.5},
                              {.name = "Everything",
                               .length = 11,
                               .batch = 17,
                               .inputs = 33,
                               .hidden = 19,
                               .layers = 2,
                               .bidirectional = true,
                               .batch_first = true,
                               .dropout = 0.3},
                              {.name = "OneSample", .batch = 1, .hidden = 64},
                              {.name = "OneOfEach", .length = 2, .batch = 1, .inputs = 1, .hidden = 1},
                              {.name = "Finetune", .length = 50, .batch = 32, .hidden = 32, .batch_first = true}};
  for (size_t i = 0, gru = all.size(); i < gru; ++i) {
    all.push_back(all[i]);
    all.back().lstm = true;
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, RnnSettingsTest, ::testing::ValuesIn(settings()),
                         [](const auto& info) { return (info.param.lstm ? "Lstm" : "Gru") + info.param.name; });

TEST_F(RnnTest, GradientsHaveGradients) {
  for (const bool lstm : {false, true}) {
    for (const bool bidirectional : {false, true}) {
      const RnnCall call({.lstm = lstm, .bidirectional = bidirectional});
      const auto compute = [&] {
        call.require_gradients();
        const auto first = torch::autograd::grad({loss_of(call.run())}, call.sources(), {}, {}, /*create_graph=*/true);
        return torch::autograd::grad({loss_of(first)}, call.sources());
      };
      const auto [in_onednn, in_libtorch] = both_ways(compute);
      expect_close(in_onednn, in_libtorch, 1e-4);
    }
  }
}

TEST_F(RnnTest, GradientsHaveGradientsWhereOneSourceComesFromAnother) {
  const at::Tensor input = at::randn({7, 3, 5}).requires_grad_(true), weight = at::randn({15, 5}).requires_grad_(true);
  const at::Tensor bias = at::randn({15}).requires_grad_(true);
  const auto compute = [&] {
    // The state from the input, and one tensor as two weights and as two biases.
    const auto [output, h] =
        at::gru(input, input.mean(0, true), {weight, weight, bias, bias}, true, 1, 0, true, false, false);
    auto all = torch::autograd::grad({loss_of({output, h})}, {input, weight, bias}, {}, {}, /*create_graph=*/true);
    const auto second = torch::autograd::grad({loss_of(all)}, {input, weight, bias});
    for (at::Tensor& first : all) first = first.detach();
    all.insert(all.end(), second.begin(), second.end());
    return all;
  };
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  expect_close(in_onednn, in_libtorch, 1e-4);
}

TEST_F(RnnTest, AHookOnAWeightRunsOnce) {
  const RnnCall call({});
  int calls = 0;
  const at::Tensor leaf = at::randn({15, 5}).requires_grad_(true), weight = leaf * 0.5;  // no leaf itself
  weight.register_hook([&](const at::Tensor& gradient) {
    ++calls;
    return gradient * 3;
  });
  for (const bool create_graph : {false, true}) {
    const auto compute = [&] {
      const auto [output, h] =
          at::gru(call.input, call.states[0], {call.parameters[0], weight, call.parameters[2], call.parameters[3]},
                  true, 1, 0, true, false, false);
      return torch::autograd::grad({loss_of({output, h})}, {leaf}, {}, true, create_graph);
    };
    calls = 0;
    const auto [in_onednn, in_libtorch] = both_ways(compute);
    EXPECT_EQ(calls, 2) << "once each way";
    expect_close({in_onednn[0].detach()}, {in_libtorch[0].detach()});
  }
}

TEST_F(RnnTest, BackwardMayBeCalledAgainElsewhereAndLater) {
  const RnnCall call({});
  call.require_gradients();
  const at::Tensor loss = loss_of(call.run());
  const auto gradients = [&] { return torch::autograd::grad({loss}, call.sources(), {}, /*retain_graph=*/true); };
  const auto first = gradients();
  for (int64_t length = 2; length < 300; ++length) {  // more shapes than are kept
    const at::NoGradGuard no_gradients;
    RnnCall({.length = length, .batch = 1, .hidden = 2}).run();
  }
  std::vector<at::Tensor> second;
  std::thread([&] { second = gradients(); }).join();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(at::equal(first[i], second[i])) << i;
}

TEST_F(RnnTest, ResultsMayBeChangedAndDetachedInPlace) {
  for (const bool batch_first : {false, true}) {
    const RnnCall call({.batch_first = batch_first});
    call.require_gradients();
    const auto compute = [&] {
      const auto results = call.run();
      const at::Tensor doubled = results[0].mul_(2);
      const auto gradients = torch::autograd::grad({loss_of({doubled})}, call.sources());
      for (const at::Tensor& result : call.run()) result.detach_();
      return gradients;
    };
    const auto [in_onednn, in_libtorch] = both_ways(compute);
    expect_close(in_onednn, in_libtorch);
    std::vector<at::Tensor> without;
    {
      const at::NoGradGuard no_gradients;
      without = call.run();
    }
    for (const at::Tensor& result : without) EXPECT_NO_THROW(result.mul_(2));
  }
}

TEST_F(RnnTest, NumbersThatAreNotFiniteStaySo) {
  for (const bool lstm : {false, true}) {
    for (const float number : {NAN, INFINITY}) {
      for (const size_t source : {0, 1, 2}) {
        const RnnCall call({.lstm = lstm});
        call.sources()[source].view(-1)[1] = number;
        const auto [in_onednn, in_libtorch] = both_ways([&] { return call.run(); });
        for (size_t i = 0; i < in_onednn.size(); ++i)
          EXPECT_TRUE(at::allclose(in_onednn[i], in_libtorch[i], 0, 0, /*equal_nan=*/true)) << i;
        if (number != INFINITY) {
          EXPECT_TRUE(in_onednn[0].isnan().any().item<bool>());
        }
      }
    }
  }
}

TEST_F(RnnTest, AGradientThatIsNotFiniteStaysSo) {
  const RnnCall call({});
  call.require_gradients();
  const auto gradients = torch::autograd::grad({loss_of(call.run()) * NAN}, call.sources());
  for (const at::Tensor& gradient : gradients) EXPECT_TRUE(gradient.isnan().any().item<bool>());
}

TEST_F(RnnTest, AnyResultAloneHasGradients) {
  for (const bool lstm : {false, true}) {
    const RnnCall call({.lstm = lstm, .layers = 2});
    call.require_gradients();
    for (size_t result = 0; result < (lstm ? 3U : 2U); ++result) {
      const auto compute = [&] { return torch::autograd::grad({loss_of({call.run()[result]})}, call.sources()); };
      const auto [in_onednn, in_libtorch] = both_ways(compute);
      expect_close(in_onednn, in_libtorch);
    }
  }
}

TEST_F(RnnTest, WhatIsFrozenHasNoGradientAndTheRestDoes) {
  const RnnCall call({.layers = 2});
  call.parameters[5].set_requires_grad(true);  // of the second layer: the first one needs none
  const auto compute = [&] { return torch::autograd::grad({loss_of(call.run())}, {call.parameters[5]}); };
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  expect_close(in_onednn, in_libtorch);
  EXPECT_TRUE(computes_in_onednn([&] { compute(); }));
  EXPECT_FALSE(call.parameters[0].grad().defined());
}

TEST_F(RnnTest, TensorsMayBeViewsOfAnyKind) {
  RnnCall call({.length = 7, .batch = 3, .inputs = 4, .hidden = 4});
  call.input = at::randn({4, 7, 3}).permute({1, 2, 0});
  call.states[0] = at::randn({1, 1, 4}).expand({1, 3, 4});
  call.parameters[0] = at::randn({4, 24}).t().slice(0, 0, 24, 2);
  const auto [in_onednn, in_libtorch] = both_ways([&] { return call.run(); });
  expect_close(in_onednn, in_libtorch);
  EXPECT_TRUE(computes_in_onednn([&] { call.run(); }));
}

TEST_F(RnnTest, AWeightThatChangesBeforeBackwardIsAnError) {
  const RnnCall call({});
  call.require_gradients();
  const at::Tensor loss = loss_of(call.run());
  {
    const torch::NoGradGuard no_gradients;
    call.parameters[1].add_(1);
  }
  EXPECT_THAT([&] { loss.backward(); },
              ::testing::ThrowsMessage<c10::Error>(::testing::HasSubstr("modified by an inplace operation")));
}

TEST_F(RnnTest, ManyShapesInTurnAreComputedRightly) {
  const auto compute = [] {
    std::vector<at::Tensor> results;
    for (int round = 0; round < 2; ++round)
      for (int64_t length = 2; length < 90; ++length) {
        torch::manual_seed(static_cast<uint64_t>(length));
        results.push_back(RnnCall({.length = length, .batch = 2, .inputs = 3, .hidden = 4}).run()[0]);
      }
    return results;
  };
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  expect_close(in_onednn, in_libtorch);
}

}  // namespace
}  // namespace torchfeed::rnn
