#include <torchfeed/plugin/rnn/layer.h>
#include <torchfeed/plugin/rnn/layer_function.h>
#include <torchfeed/plugin/rnn/operators.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/gru_native.h>
#include <ATen/ops/lstm_native.h>
#include <ATen/ops/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace torchfeed::rnn {
namespace {

/// May change while other threads compute: each call goes one way or the other.
std::atomic<bool> used{false};

/// The arguments of aten::gru and aten::lstm.
struct Call {
  Cell cell;
  const at::Tensor& input;
  std::vector<at::Tensor> states;
  at::TensorList parameters;
  bool has_biases;
  int64_t num_layers;
  double dropout;
  bool train;
  bool bidirectional;
  bool batch_first;

  int64_t directions() const { return bidirectional ? 2 : 1; }
};

/// One layer in one direction of a call.
struct Part {
  LayerShape shape;
  LayerTensors tensors;
};

/// LibTorch takes some 15 us for a time step's operators, and shares large products among threads; oneDNN takes 3 us
/// and one thread, brings weights into its own layout for each call, and computes on whole vectors of states. Inside
/// these bounds it was 1.1 to 27 times as fast on 2 cores of an AMD EPYC, and outside of each of them slower somewhere:
/// see benchmarks/rnn_micro.cpp. With more threads than those LibTorch's products are as much faster at best.
bool worth_it(const LayerShape& shape) {
  constexpr int64_t kMostState = 8192, kMostProducts = int64_t{1} << 20, kMeasuredThreads = 2;
  constexpr int64_t kWeightsForEachStep = 10'500, kVector = 16, kMostBatchOfLessThanAVector = 64;
  const int64_t state = shape.batch * shape.hidden, columns = shape.inputs + shape.hidden;
  const int64_t threads = std::max<int64_t>(at::get_num_threads(), kMeasuredThreads);
  return shape.length > 1 && state <= kMostState && state * columns * threads <= kMostProducts * kMeasuredThreads &&
         columns * shape.hidden <= kWeightsForEachStep * shape.length &&
         (shape.hidden >= kVector || shape.batch <= kMostBatchOfLessThanAVector);
}

/// A float32 tensor of the CPU's own kind, without anything that only LibTorch's operators know about.
bool is_plain(const at::Tensor& tensor) {
  using c10::DispatchKey;
  const c10::DispatchKeySet known(
      {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU, DispatchKey::ADInplaceOrView});
  return tensor.defined() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
         tensor.device().is_cpu() && (tensor.key_set() | known) == known && tensor.numel() > 0 &&
         !tensor._fw_grad(/*level=*/0).defined();
}

bool all_are(bool (*condition)(const at::Tensor&), const Call& call) {
  return condition(call.input) && std::all_of(call.states.begin(), call.states.end(), condition) &&
         std::all_of(call.parameters.begin(), call.parameters.end(), condition);
}

bool has_sizes(const at::Tensor& tensor, at::IntArrayRef sizes) { return tensor.sizes() == sizes; }

/// The part's tensors, but for the input of a layer after the first; nothing where they do not fit together.
std::optional<Part> part_of(const Call& call, int64_t layer, bool reverse) {
  const int64_t gates = call.cell == Cell::kGru ? 3 : 4;
  const int64_t place = layer * call.directions() + (reverse ? 1 : 0);
  const auto* const parameters = call.parameters.data() + place * (call.has_biases ? 4 : 2);
  Part part;
  part.shape.cell = call.cell;
  part.shape.reverse = reverse;
  part.shape.length = call.input.size(call.batch_first ? 1 : 0);
  part.shape.batch = call.input.size(call.batch_first ? 0 : 1);
  part.shape.hidden = call.states[0].size(2);
  part.shape.inputs = layer == 0 ? call.input.size(2) : part.shape.hidden * call.directions();
  part.tensors.weight_ih = parameters[0];
  part.tensors.weight_hh = parameters[1];
  const int64_t rows = gates * part.shape.hidden;
  bool fits =
      has_sizes(parameters[0], {rows, part.shape.inputs}) && has_sizes(parameters[1], {rows, part.shape.hidden});
  if (call.has_biases) {
    part.tensors.bias_ih = parameters[2];
    part.tensors.bias_hh = parameters[3];
    fits = fits && has_sizes(parameters[2], {rows}) && has_sizes(parameters[3], {rows});
  }
  for (const at::Tensor& state : call.states)
    fits = fits && has_sizes(state, {call.num_layers * call.directions(), part.shape.batch, part.shape.hidden});
  if (!fits) return std::nullopt;
  part.tensors.h = call.states[0].select(0, place);
  if (call.cell == Cell::kLstm) part.tensors.c = call.states[1].select(0, place);
  return part;
}

/// oneDNN's functions of a NaN are some number.
bool is_finite(const at::Tensor& tensor) {
  constexpr uint32_t kExponent = 0x7f800000;
  const at::Tensor numbers = tensor.contiguous();
  const auto* const data = numbers.data_ptr<float>();
  bool finite = true;
  for (int64_t i = 0; i < numbers.numel(); ++i) finite &= (std::bit_cast<uint32_t>(data[i]) & kExponent) != kExponent;
  return finite;
}

/// The parts in the order of their parameters, or none where LibTorch's own way is to be gone: it also has the errors.
std::vector<Part> parts_of(const Call& call) {
  if (!used.load(std::memory_order_relaxed) || !at::globalContext().userEnabledMkldnn()) return {};
  // With autocast products are bfloat16.
  if (!c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU)) return {};
  if (!all_are(is_plain, call) || call.input.dim() != 3 || call.num_layers < 1) return {};
  for (const at::Tensor& state : call.states)
    if (state.dim() != 3) return {};
  if (static_cast<int64_t>(call.parameters.size()) != call.num_layers * call.directions() * (call.has_biases ? 4 : 2))
    return {};
  std::vector<Part> parts;
  for (int64_t layer = 0; layer < call.num_layers; ++layer) {
    for (int64_t direction = 0; direction < call.directions(); ++direction) {
      auto part = part_of(call, layer, direction == 1);
      if (!part || !worth_it(part->shape)) return {};
      parts.push_back(*std::move(part));
    }
  }
  return all_are(is_finite, call) ? parts : std::vector<Part>();
}

LayerResult run(const Call& call, const std::vector<Part>& parts) {
  at::Tensor input = call.batch_first ? call.input.transpose(0, 1) : call.input;
  std::vector<at::Tensor> h, c;
  auto part = parts.begin();
  for (int64_t layer = 0; layer < call.num_layers; ++layer) {
    std::vector<at::Tensor> outputs;
    for (int64_t direction = 0; direction < call.directions(); ++direction, ++part) {
      LayerTensors from = part->tensors;
      from.input = input;
      const LayerResult result = run_layer(part->shape, from);
      outputs.push_back(result.output);
      h.push_back(result.h);
      if (result.c.defined()) c.push_back(result.c);
    }
    input = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 2);
    if (call.dropout != 0 && call.train && layer + 1 < call.num_layers) input = at::dropout(input, call.dropout, true);
  }
  // As from LibTorch, results are tensors of their own: users may change and detach them in place.
  if (call.directions() == 1 && input.requires_grad()) input = input.clone();  // backward() needs the other
  if (call.batch_first) input.transpose_(0, 1);
  return {std::move(input), at::stack(h), c.empty() ? at::Tensor() : at::stack(c), {}};
}

std::tuple<at::Tensor, at::Tensor> gru(const at::Tensor& input, const at::Tensor& hx, at::TensorList params,
                                       bool has_biases, int64_t num_layers, double dropout, bool train,
                                       bool bidirectional, bool batch_first) {
  const Call call{Cell::kGru, input, {hx}, params, has_biases, num_layers, dropout, train, bidirectional, batch_first};
  const std::vector<Part> parts = parts_of(call);
  if (parts.empty())
    return at::native::gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first);
  LayerResult result = run(call, parts);
  return {std::move(result.output), std::move(result.h)};
}

// From 2 on LibTorch does so itself.
#if TORCH_VERSION_MAJOR < 2
std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm(const at::Tensor& input, at::TensorList hx, at::TensorList params,
                                                    bool has_biases, int64_t num_layers, double dropout, bool train,
                                                    bool bidirectional, bool batch_first) {
  const Call call{Cell::kLstm, input,   hx.vec(), params,        has_biases,
                  num_layers,  dropout, train,    bidirectional, batch_first};
  const std::vector<Part> parts = hx.size() == 2 ? parts_of(call) : std::vector<Part>();
  if (parts.empty())
    return at::native::lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first);
  LayerResult result = run(call, parts);
  return {std::move(result.output), std::move(result.h), std::move(result.c)};
}
#endif

/// Undone when the process ends: without `used` a kernel calls what it has replaced.
std::vector<torch::Library> register_kernels() {
  std::vector<torch::Library> libraries;
  // Without autograd's key, in inference mode, a call arrives at the backend's.
  for (const c10::DispatchKey key : {c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU}) {
    libraries.emplace_back(torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
    libraries.back().impl("gru.input", TORCH_FN(gru));
#if TORCH_VERSION_MAJOR < 2
    libraries.back().impl("lstm.input", TORCH_FN(lstm));
#endif
  }
  return libraries;
}

}  // namespace

void use_onednn(bool use) {
  if (use) {
    static const std::vector<torch::Library> kLibraries = register_kernels();
    prepare_layers();
  }
  used.store(use, std::memory_order_relaxed);
}

bool onednn_is_used() { return used.load(std::memory_order_relaxed); }

}  // namespace torchfeed::rnn
