#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torch/version.h>
#include <torchfeed/plugin/rnn/operators.h>
#include <torchfeed/plugin/threading/onednn_settings.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/expect_in_child.h"

namespace torchfeed::rnn {
namespace {

/// Products of matrices that LibTorch's operators have computed, in all threads.
std::atomic<int> products{0};

std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
  const std::string name = function.name();
  if (name == "aten::addmm" || name == "aten::mm") ++products;
  return nullptr;
}

class RnnTest : public ::testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    observer_ = at::addGlobalCallback(at::RecordFunctionCallback(count));
    use_onednn(true);
  }
  void TearDown() override {
    use_onednn(false);
    at::removeCallback(observer_);
  }

 private:
  at::CallbackHandle observer_ = 0;
};

/// A GRU or an LSTM, and what it is called with.
struct Setting {
  std::string name = {};
  bool lstm = false;
  int64_t length = 7, batch = 3, inputs = 4, hidden = 5, layers = 1;
  bool biases = true, bidirectional = false, batch_first = false;
  double dropout = 0;
};

void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

struct Call {
  explicit Call(const Setting& setting, at::ScalarType type = at::kFloat) : setting(setting) {
    const auto options = at::TensorOptions(type);
    const int64_t gates = setting.lstm ? 4 : 3, directions = setting.bidirectional ? 2 : 1;
    input = setting.batch_first ? at::randn({setting.batch, setting.length, setting.inputs}, options)
                                : at::randn({setting.length, setting.batch, setting.inputs}, options);
    for (int i = 0; i < (setting.lstm ? 2 : 1); ++i)
      states.push_back(at::randn({setting.layers * directions, setting.batch, setting.hidden}, options));
    for (int64_t layer = 0; layer < setting.layers; ++layer) {
      const int64_t inputs = layer == 0 ? setting.inputs : setting.hidden * directions;
      for (int64_t direction = 0; direction < directions; ++direction) {
        parameters.push_back(at::randn({gates * setting.hidden, inputs}, options) / 3);
        parameters.push_back(at::randn({gates * setting.hidden, setting.hidden}, options) / 3);
        for (int i = 0; i < 2 && setting.biases; ++i)
          parameters.push_back(at::randn({gates * setting.hidden}, options));
      }
    }
  }

  /// The output, then the states.
  std::vector<at::Tensor> run(bool train = true) const {
    torch::manual_seed(2);
    const Setting& s = setting;
    if (s.lstm) {
      auto [output, h, c] =
          at::lstm(input, states, parameters, s.biases, s.layers, s.dropout, train, s.bidirectional, s.batch_first);
      return {output, h, c};
    }
    auto [output, h] =
        at::gru(input, states[0], parameters, s.biases, s.layers, s.dropout, train, s.bidirectional, s.batch_first);
    return {output, h};
  }

  /// All that it computes from.
  std::vector<at::Tensor> sources() const {
    std::vector<at::Tensor> all{input};
    all.insert(all.end(), states.begin(), states.end());
    all.insert(all.end(), parameters.begin(), parameters.end());
    return all;
  }

  void require_gradients() const {
    for (const at::Tensor& tensor : sources()) tensor.set_requires_grad(true);
  }

  Setting setting;
  at::Tensor input;
  std::vector<at::Tensor> states, parameters;
};

/// Some number of the results in which each of their numbers has a part of its own.
at::Tensor loss_of(const std::vector<at::Tensor>& results) {
  at::Tensor loss = at::zeros({}, results[0].options());
  for (const at::Tensor& result : results) {
    const at::Tensor weights = at::linspace(-1, 2, result.numel(), result.options().requires_grad(false));
    loss = loss + (result.reshape(-1).pow(2) * weights).sum();
  }
  return loss;
}

/// What `compute` gives in oneDNN and in LibTorch's operators.
template <typename Compute>
auto both_ways(const Compute& compute) {
  use_onednn(true);
  auto in_onednn = compute();
  use_onednn(false);
  auto in_libtorch = compute();
  use_onednn(true);
  return std::pair(std::move(in_onednn), std::move(in_libtorch));
}

void expect_close(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b, double tolerance = 2e-5) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << "tensor " << i;
    if (!a[i].defined()) continue;
    ASSERT_EQ(a[i].sizes(), b[i].sizes()) << "tensor " << i;
    EXPECT_EQ(a[i].strides(), b[i].strides()) << "tensor " << i;
    EXPECT_LT((a[i] - b[i]).abs().max().item<double>(), tolerance * std::max(1.0, b[i].abs().max().item<double>()))
        << "tensor " << i;
  }
}

/// The call's results, and gradients of a loss of those.
std::vector<at::Tensor> results_and_gradients(const Call& call) {
  call.require_gradients();
  std::vector<at::Tensor> all = call.run();
  const auto gradients = torch::autograd::grad({loss_of(all)}, call.sources());
  for (at::Tensor& result : all) result = result.detach();
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

bool computes_in_onednn(const std::function<void()>& compute) {
  const int before = products;
  compute();
  return products == before;
}

/// Where LibTorch has no LSTM in oneDNN of its own.
constexpr bool kLstm = TORCH_VERSION_MAJOR < 2;

class RnnSettingsTest : public RnnTest, public ::testing::WithParamInterface<Setting> {};

TEST_P(RnnSettingsTest, ResultsAndGradientsAreLibTorchs) {
  const Call call(GetParam());
  const auto [in_onednn, in_libtorch] = both_ways([&] { return results_and_gradients(call); });
  expect_close(in_onednn, in_libtorch);
  EXPECT_EQ(computes_in_onednn([&] { call.run(); }), kLstm || !GetParam().lstm);
}

TEST_P(RnnSettingsTest, WithoutGradientsResultsAreTheSame) {
  const Call call(GetParam());
  for (const bool inference : {false, true}) {
    const auto compute = [&] {
      const torch::NoGradGuard no_gradients;
      const c10::InferenceMode mode(inference);
      return Call(call).run();
    };
    const auto [in_onednn, in_libtorch] = both_ways(compute);
    const torch::NoGradGuard no_gradients;
    expect_close(in_onednn, in_libtorch);
    EXPECT_EQ(computes_in_onednn(compute), kLstm || !GetParam().lstm);
  }
}

std::vector<Setting> settings() {
  std::vector<Setting> all{{.name = "Plain"},
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
      const Call call({.lstm = lstm, .bidirectional = bidirectional});
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

TEST_F(RnnTest, AnyResultAloneHasGradients) {
  for (const bool lstm : {false, true}) {
    const Call call({.lstm = lstm, .layers = 2});
    call.require_gradients();
    for (size_t result = 0; result < (lstm ? 3U : 2U); ++result) {
      const auto compute = [&] { return torch::autograd::grad({loss_of({call.run()[result]})}, call.sources()); };
      const auto [in_onednn, in_libtorch] = both_ways(compute);
      expect_close(in_onednn, in_libtorch);
    }
  }
}

TEST_F(RnnTest, WhatIsFrozenHasNoGradientAndTheRestDoes) {
  const Call call({.layers = 2});
  call.parameters[5].set_requires_grad(true);  // of the second layer: the first one needs none
  const auto compute = [&] { return torch::autograd::grad({loss_of(call.run())}, {call.parameters[5]}); };
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  expect_close(in_onednn, in_libtorch);
  EXPECT_TRUE(computes_in_onednn([&] { compute(); }));
  EXPECT_FALSE(call.parameters[0].grad().defined());
}

TEST_F(RnnTest, TensorsMayBeViewsOfAnyKind) {
  Call call({.length = 7, .batch = 3, .inputs = 4, .hidden = 4});
  call.input = at::randn({4, 7, 3}).permute({1, 2, 0});
  call.states[0] = at::randn({1, 1, 4}).expand({1, 3, 4});
  call.parameters[0] = at::randn({4, 24}).t().slice(0, 0, 24, 2);
  const auto [in_onednn, in_libtorch] = both_ways([&] { return call.run(); });
  expect_close(in_onednn, in_libtorch);
  EXPECT_TRUE(computes_in_onednn([&] { call.run(); }));
}

TEST_F(RnnTest, AWeightThatChangesBeforeBackwardIsAnError) {
  const Call call({});
  call.require_gradients();
  const at::Tensor loss = loss_of(call.run());
  {
    const torch::NoGradGuard no_gradients;
    call.parameters[1].add_(1);
  }
  EXPECT_THAT([&] { loss.backward(); },
              ::testing::ThrowsMessage<c10::Error>(::testing::HasSubstr("modified by an inplace operation")));
}

TEST_F(RnnTest, ErrorsAreLibTorchs) {
  const auto message = [](const Call& call) {
    try {
      call.run();
    } catch (const c10::Error& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("no error");
  };
  std::vector<Call> calls(5, Call({}));
  calls[0].input = at::randn({7, 3, 9});        // another number of inputs
  calls[1].states[0] = at::randn({1, 2, 5});    // another batch
  calls[2].parameters.pop_back();               // a bias is missing
  calls[3].parameters[1] = at::randn({15, 4});  // another hidden size
  calls[4].input = at::randn({7, 4});
  for (const Call& call : calls) {
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
  expect_libtorchs_way([call = Call({}, at::kDouble)] { return call.run(); });
  expect_libtorchs_way([call = Call({.length = 1})] { return call.run(); });
  expect_libtorchs_way([call = Call({.length = 2, .batch = 64, .hidden = 256})] { return call.run(); });
  expect_libtorchs_way([call = Call({.length = 2, .batch = 64, .inputs = 1024, .hidden = 32})] { return call.run(); });
  expect_libtorchs_way([call = Call({.length = 2, .batch = 1, .hidden = 256})] { return call.run(); });
  expect_libtorchs_way([call = Call({.batch = 512, .hidden = 4})] { return call.run(); });
  const Call call({});
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

TEST_F(RnnTest, ManyShapesInTurnAreComputedRightly) {
  const auto compute = [] {
    std::vector<at::Tensor> results;
    for (int round = 0; round < 2; ++round)
      for (int64_t length = 2; length < 90; ++length) {
        torch::manual_seed(static_cast<uint64_t>(length));
        results.push_back(Call({.length = length, .batch = 2, .inputs = 3, .hidden = 4}).run()[0]);
      }
    return results;
  };
  const auto [in_onednn, in_libtorch] = both_ways(compute);
  expect_close(in_onednn, in_libtorch);
}

TEST_F(RnnTest, ThreadsComputeBesideEachOther) {
  const Call call({.length = 30, .batch = 8, .inputs = 6, .hidden = 16});
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
  at::set_num_threads(2);
  const Call call({.length = 30, .batch = 8, .inputs = 6, .hidden = 16});
  const std::vector<at::Tensor> expected = results_and_gradients(call);
  expect_in_child([&] {
    const std::vector<at::Tensor> results = results_and_gradients(call);
    bool same = true;
    for (size_t i = 0; i < results.size(); ++i) same = same && at::equal(results[i], expected[i]);
    return same;
  });
}

}  // namespace
}  // namespace torchfeed::rnn
