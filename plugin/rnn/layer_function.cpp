#include <torchfeed/plugin/rnn/layer_function.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gru_native.h>
#include <ATen/ops/lstm_native.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <utility>
#include <vector>

namespace torchfeed::rnn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The order in which tensors go through autograd, which knows lists only.
variable_list list_of(const LayerTensors& t) {
  return {t.input, t.h, t.c, t.weight_ih, t.weight_hh, t.bias_ih, t.bias_hh};
}
LayerTensors tensors_of(const variable_list& v) { return {v[0], v[1], v[2], v[3], v[4], v[5], v[6]}; }

/// Autograd takes no undefined tensors: an empty one stands for what a layer does not have.
at::Tensor or_empty(const at::Tensor& tensor) { return tensor.defined() ? tensor : at::empty({0}); }
at::Tensor or_undefined(const at::Tensor& tensor) { return tensor.numel() > 0 ? tensor : at::Tensor(); }

constexpr int kTensors = 7, kResults = 3;

variable_list list_of(const LayerResult& r) { return {r.output, r.h, r.c}; }

/// The layer in LibTorch's own operators.
LayerResult run_in_libtorch(const LayerShape& shape, const LayerTensors& from) {
  std::vector<at::Tensor> parameters{from.weight_ih, from.weight_hh};
  const bool biases = from.bias_ih.defined();
  if (biases) parameters.insert(parameters.end(), {from.bias_ih, from.bias_hh});
  const at::Tensor input = shape.reverse ? from.input.flip(0) : from.input;
  LayerResult result;
  if (shape.cell == Cell::kGru) {
    std::tie(result.output, result.h) =
        at::native::gru(input, from.h.unsqueeze(0), parameters, biases, 1, 0, false, false, false);
  } else {
    const std::vector<at::Tensor> states{from.h.unsqueeze(0), from.c.unsqueeze(0)};
    std::tie(result.output, result.h, result.c) =
        at::native::lstm(input, states, parameters, biases, 1, 0, false, false, false);
    result.c = result.c.squeeze(0);
  }
  result.h = result.h.squeeze(0);
  if (shape.reverse) result.output = result.output.flip(0);
  return result;
}

/// Gradients that have gradients themselves: of LibTorch's operators.
LayerTensors differentiable_gradients(const LayerShape& shape, const LayerTensors& from, const LayerResult& gradients) {
  const variable_list results = list_of(run_in_libtorch(shape, from));
  variable_list outputs, output_gradients, inputs;
  const variable_list given = list_of(gradients);
  for (size_t i = 0; i < given.size(); ++i) {
    if (!given[i].defined()) continue;
    outputs.push_back(results[i]);
    output_gradients.push_back(given[i]);
  }
  variable_list result = list_of(from);
  for (const at::Tensor& input : result)
    if (input.defined() && input.requires_grad()) inputs.push_back(input);
  const variable_list found = torch::autograd::grad(outputs, inputs, output_gradients, /*retain_graph=*/true,
                                                    /*create_graph=*/true, /*allow_unused=*/true);
  size_t next = 0;
  for (at::Tensor& input : result) input = input.defined() && input.requires_grad() ? found[next++] : at::Tensor();
  return tensors_of(result);
}

struct LayerFunction : torch::autograd::Function<LayerFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& h,
                               const at::Tensor& c, const at::Tensor& weight_ih, const at::Tensor& weight_hh,
                               const at::Tensor& bias_ih, const at::Tensor& bias_hh, const LayerShape& shape) {
    const LayerTensors from{
        input, h, or_undefined(c), weight_ih, weight_hh, or_undefined(bias_ih), or_undefined(bias_hh)};
    const LayerResult result = Layer::find(shape, /*training=*/true)->forward(from);
    variable_list saved = list_of(from);
    for (const at::Tensor& tensor : list_of(result)) saved.push_back(tensor);
    saved.push_back(result.workspace);
    context->save_for_backward(std::move(saved));
    context->set_materialize_grads(false);
    context->saved_data["shape"] = std::vector<int64_t>{
        static_cast<int64_t>(shape.cell), shape.reverse, shape.length, shape.batch, shape.inputs, shape.hidden};
    variable_list results{result.output, result.h};
    if (shape.cell == Cell::kLstm) results.push_back(result.c);
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const std::vector<int64_t> numbers = context->saved_data["shape"].toIntVector();
    const LayerShape shape{
        static_cast<Cell>(numbers[0]), numbers[1] != 0, numbers[2], numbers[3], numbers[4], numbers[5]};
    const variable_list saved = context->get_saved_variables();
    const LayerTensors from = tensors_of(saved);
    gradients.resize(kResults);
    const LayerResult given{gradients[0], gradients[1], gradients[2], {}};
    LayerTensors result;
    if (at::GradMode::is_enabled()) {
      result = differentiable_gradients(shape, from, given);
    } else {
      const LayerResult computed{saved[kTensors], saved[kTensors + 1], saved[kTensors + 2], saved[kTensors + kResults]};
      result = Layer::find(shape, /*training=*/true)->backward(from, computed, given);
    }
    variable_list list = list_of(result);
    list.emplace_back();  // of the shape
    return list;
  }
};

LayerTensors contiguous(LayerTensors from) {
  for (at::Tensor* tensor :
       {&from.input, &from.h, &from.c, &from.weight_ih, &from.weight_hh, &from.bias_ih, &from.bias_hh})
    if (tensor->defined()) *tensor = tensor->contiguous();
  return from;
}

bool requires_gradient(const LayerTensors& from) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& tensor : list_of(from))
    if (tensor.defined() && tensor.requires_grad()) return true;
  return false;
}

}  // namespace

LayerResult run_layer(const LayerShape& shape, const LayerTensors& tensors) {
  const LayerTensors from = contiguous(tensors);
  const bool training = requires_gradient(from);
  const auto layer = Layer::find(shape, training);
  if (!layer) return run_in_libtorch(shape, from);
  if (!training) return layer->forward(from);
  variable_list results = LayerFunction::apply(from.input, from.h, or_empty(from.c), from.weight_ih, from.weight_hh,
                                               or_empty(from.bias_ih), or_empty(from.bias_hh), shape);
  results.resize(kResults);
  return {results[0], results[1], results[2], {}};
}

}  // namespace torchfeed::rnn
