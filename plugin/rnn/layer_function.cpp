#include <torchfeed/plugin/rnn/layer_function.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gru_native.h>
#include <ATen/ops/lstm_native.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <memory>
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

/// The layer in LibTorch's own operators, in float32 whatever scope the caller is in.
LayerResult run_in_libtorch(const LayerShape& shape, const LayerTensors& from) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
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

bool requires_grad(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

/// Gradients that have gradients themselves: of LibTorch's operators.
LayerTensors differentiable_gradients(const LayerShape& shape, const LayerTensors& from, const LayerResult& given) {
  // Of aliases, as one of the tensors may come from another, or be it: that part is the outer graph's to follow.
  variable_list sources = list_of(from);
  variable_list inputs;
  for (at::Tensor& source : sources) {
    if (!requires_grad(source)) continue;
    source = source.view_as(source);
    inputs.push_back(source);
  }
  const variable_list results = list_of(run_in_libtorch(shape, tensors_of(sources)));
  const variable_list all_given = list_of(given);
  variable_list outputs, gradients;
  for (size_t i = 0; i < all_given.size(); ++i) {
    if (!all_given[i].defined()) continue;
    outputs.push_back(results[i]);
    gradients.push_back(all_given[i]);
  }
  const variable_list found = torch::autograd::grad(outputs, inputs, gradients, /*retain_graph=*/true,
                                                    /*create_graph=*/true, /*allow_unused=*/true);
  size_t next = 0;
  for (at::Tensor& source : sources) source = requires_grad(source) ? found[next++] : at::Tensor();
  return tensors_of(sources);
}

/// The layer of a forward pass, for its backward pass: which may be in another thread, or long after.
struct KeptLayer : torch::CustomClassHolder {
  KeptLayer(LayerShape kept_shape, std::shared_ptr<const Layer> kept) : shape(kept_shape), layer(std::move(kept)) {}

  LayerShape shape;
  std::shared_ptr<const Layer> layer;
};

struct LayerFunction : torch::autograd::Function<LayerFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& h,
                               const at::Tensor& c, const at::Tensor& weight_ih, const at::Tensor& weight_hh,
                               const at::Tensor& bias_ih, const at::Tensor& bias_hh,
                               const c10::intrusive_ptr<KeptLayer>& kept) {
    const LayerTensors from{
        input, h, or_undefined(c), weight_ih, weight_hh, or_undefined(bias_ih), or_undefined(bias_hh)};
    const LayerResult result = kept->layer->forward(from);
    variable_list saved = list_of(from);
    for (const at::Tensor& tensor : list_of(result)) saved.push_back(tensor);
    saved.push_back(result.workspace);
    context->save_for_backward(std::move(saved));
    context->set_materialize_grads(false);
    context->saved_data["layer"] = c10::IValue::make_capsule(kept);
    variable_list results{result.output, result.h};
    if (kept->shape.cell == Cell::kLstm) results.push_back(result.c);
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto capsule = context->saved_data["layer"].toCapsule();
    const auto& kept = static_cast<const KeptLayer&>(*capsule);
    const variable_list saved = context->get_saved_variables();
    const LayerTensors from = tensors_of(saved);
    gradients.resize(kResults);
    const LayerResult given{gradients[0], gradients[1], gradients[2], {}};
    LayerTensors result;
    if (at::GradMode::is_enabled()) {
      result = differentiable_gradients(kept.shape, from, given);
    } else {
      const LayerResult computed{saved[kTensors], saved[kTensors + 1], saved[kTensors + 2], saved[kTensors + kResults]};
      result = kept.layer->backward(from, computed, given);
    }
    variable_list list = list_of(result);
    list.emplace_back();  // of the layer
    return list;
  }
};

LayerTensors contiguous(LayerTensors from) {
  for (at::Tensor* tensor :
       {&from.input, &from.h, &from.c, &from.weight_ih, &from.weight_hh, &from.bias_ih, &from.bias_hh})
    if (tensor->defined()) *tensor = tensor->contiguous();
  return from;
}

/// Whether autograd is to know of what is computed from these.
bool is_recorded(const LayerTensors& from) {
  // Elsewhere GradMode alone says nothing.
  if (c10::InferenceMode::is_enabled() || c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradCPU))
    return false;
  if (!at::GradMode::is_enabled()) return false;
  const variable_list tensors = list_of(from);
  return std::any_of(tensors.begin(), tensors.end(), requires_grad);
}

}  // namespace

#ifndef __clang__  // GCC 14 finds an overrun in vector<bool>'s own code, which apply() has inlined.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Warray-bounds"
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#endif
LayerResult run_layer(const LayerShape& shape, const LayerTensors& from) {
  const LayerTensors tensors = contiguous(from);
  const bool training = is_recorded(tensors);
  auto layer = Layer::find(shape, training);
  if (!layer) return run_in_libtorch(shape, tensors);
  if (!training) return layer->forward(tensors);
  variable_list results = LayerFunction::apply(tensors.input, tensors.h, or_empty(tensors.c), tensors.weight_ih,
                                               tensors.weight_hh, or_empty(tensors.bias_ih), or_empty(tensors.bias_hh),
                                               c10::make_intrusive<KeptLayer>(shape, std::move(layer)));
  results.resize(kResults);
  return {results[0], results[1], results[2], {}};
}
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

}  // namespace torchfeed::rnn
