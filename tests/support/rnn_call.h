#pragma once

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torch/version.h>
#include <torchfeed/plugin/rnn/operators.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::rnn {

/// Products of matrices that LibTorch's operators have computed, in all threads.
inline std::atomic<int> products{0};

inline std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
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
struct RnnSetting {
  std::string name = {};
  bool lstm = false;
  int64_t length = 7, batch = 3, inputs = 4, hidden = 5, layers = 1;
  bool biases = true, bidirectional = false, batch_first = false;
  double dropout = 0;
};

inline void PrintTo(const RnnSetting& setting, std::ostream* out) { *out << setting.name; }

struct RnnCall {
  explicit RnnCall(const RnnSetting& setting, at::ScalarType type = at::kFloat) : setting(setting) {
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
    const RnnSetting& s = setting;
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

  RnnSetting setting;
  at::Tensor input;
  std::vector<at::Tensor> states, parameters;
};

/// Some number of the results in which each of their numbers has a part of its own.
inline at::Tensor loss_of(const std::vector<at::Tensor>& results) {
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

inline void expect_close(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b, double tolerance = 2e-5) {
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
inline std::vector<at::Tensor> results_and_gradients(const RnnCall& call) {
  call.require_gradients();
  std::vector<at::Tensor> all = call.run();
  const auto gradients = torch::autograd::grad({loss_of(all)}, call.sources());
  for (at::Tensor& result : all) result = result.detach();
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

inline bool computes_in_onednn(const std::function<void()>& compute) {
  const int before = products;
  compute();
  return products == before;
}

/// Where LibTorch has no LSTM in oneDNN of its own.
inline constexpr bool kLstm = TORCH_VERSION_MAJOR < 2;

}  // namespace torchfeed::rnn
