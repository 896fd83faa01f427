// GRU and LSTM layers in oneDNN beside LibTorch's own operators: forward alone, and forward and backward.
//   build/bin/rnn_micro --benchmark_min_time=0.3
// Shapes that optimize_system_for_training() leaves to LibTorch are at the end: they take the same way twice. LibTorch
// takes the threads that it takes by itself, oneDNN one. Both are measured in turn, in one run.
#include <torchfeed/plugin/rnn/operators.h>

#include <ATen/ops/gru.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/randn.h>
#include <torch/autograd.h>
#include <torch/version.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

namespace {

struct Layer {
  bool lstm;
  std::vector<at::Tensor> parameters, states;
  at::Tensor input;

  Layer(bool is_lstm, std::int64_t length, std::int64_t batch, std::int64_t inputs, std::int64_t hidden)
      : lstm(is_lstm), input(at::randn({length, batch, inputs})) {
    const std::int64_t rows = (lstm ? 4 : 3) * hidden;
    parameters = {at::randn({rows, inputs}), at::randn({rows, hidden}), at::randn({rows}), at::randn({rows})};
    for (at::Tensor& parameter : parameters) parameter = parameter.mul_(0.1).requires_grad_();
    states.assign(lstm ? 2 : 1, at::zeros({1, batch, hidden}));
  }

  at::Tensor output() const {
    if (lstm) return std::get<0>(at::lstm(input, states, parameters, true, 1, 0, true, false, false));
    return std::get<0>(at::gru(input, states[0], parameters, true, 1, 0, true, false, false));
  }

  void step(bool backward) const {
    const at::NoGradGuard no_gradients;
    const at::AutoGradMode gradients(backward);
    const at::Tensor last = output()[-1];
    if (backward)
      benchmark::DoNotOptimize(torch::autograd::grad({last.sum()}, parameters));
    else
      benchmark::DoNotOptimize(last.data_ptr());
  }
};

double seconds(const Layer& layer, bool backward, bool onednn) {
  torchfeed::rnn::use_onednn(onednn);
  const auto begin = std::chrono::steady_clock::now();
  layer.step(backward);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The time is oneDNN's; "gain" is LibTorch's over it.
void recurrent_layer(benchmark::State& state, bool lstm, bool backward) {
  const Layer layer(lstm, state.range(0), state.range(1), state.range(2), state.range(3));
  std::vector<double> in_onednn, in_libtorch;
  for (const bool onednn : {true, false}) seconds(layer, backward, onednn);
  for (auto _ : state) {
    in_onednn.push_back(seconds(layer, backward, true));
    in_libtorch.push_back(seconds(layer, backward, false));
    state.SetIterationTime(in_onednn.back());
  }
  torchfeed::rnn::use_onednn(false);
  const double took = median(in_onednn);
  state.counters["us"] = 1e6 * took;
  state.counters["gain"] = median(in_libtorch) / took;
}

/// Each time step count for the first time in this process, so that oneDNN makes its primitives: 2, 3, and so on.
void new_lengths(benchmark::State& state, bool lstm, bool backward) {
  std::int64_t length = 2;
  std::vector<double> gains;
  Layer(lstm, length, 32, 4, 32).step(backward);
  for (auto _ : state) {
    const Layer layer(lstm, length++, 32, 4, 32);
    const double took = seconds(layer, backward, true);
    gains.push_back(seconds(layer, backward, false) / took);
    state.SetIterationTime(took);
  }
  torchfeed::rnn::use_onednn(false);
  state.counters["least_gain"] = *std::min_element(gains.begin(), gains.end());
  state.counters["gain"] = median(gains);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"length", "batch", "inputs", "hidden"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
           {50, 32, 4, 32},
           {200, 1, 4, 16},
           {50, 256, 4, 32},
           {50, 64, 4, 64},
           {50, 8, 4, 256},
           {50, 1, 512, 512},
           {50, 32, 96, 96},
           {20, 512, 4, 16},
           {50, 64, 4, 8},
           {2, 1, 4, 4},
           {3, 32, 64, 64},
           {8, 16, 512, 64},
           // Not in oneDNN: too much state, products, weights for the steps, and states below a vector.
           {50, 64, 4, 256},
           {2, 16, 1024, 64},
           {2, 1, 256, 256},
           {50, 512, 4, 8}})
    benchmark->Args(shape);
}

BENCHMARK_CAPTURE(recurrent_layer, gru_forward, false, false)->Apply(shapes);
BENCHMARK_CAPTURE(recurrent_layer, gru_forward_and_backward, false, true)->Apply(shapes);
BENCHMARK_CAPTURE(new_lengths, gru_forward, false, false)->Iterations(60)->UseManualTime();
BENCHMARK_CAPTURE(new_lengths, gru_forward_and_backward, false, true)->Iterations(60)->UseManualTime();
#if TORCH_VERSION_MAJOR < 2
BENCHMARK_CAPTURE(recurrent_layer, lstm_forward, true, false)->Apply(shapes);
BENCHMARK_CAPTURE(recurrent_layer, lstm_forward_and_backward, true, true)->Apply(shapes);
#endif

}  // namespace

BENCHMARK_MAIN();
