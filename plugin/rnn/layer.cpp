#include <torchfeed/plugin/onednn/engine.h>
#include <torchfeed/plugin/onednn/one_openmp_thread.h>
#include <torchfeed/plugin/onednn/recently_used.h>
#include <torchfeed/plugin/rnn/layer.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <unordered_map>
#include <utility>

namespace torchfeed::rnn {
namespace {

using onednn::engine;
using Description = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;
using Arguments = std::unordered_map<int, dnnl::memory>;

constexpr std::int64_t kBiases = 4;  // a GRU's third gate has one for the input and one for the state

/// PyTorch's gates of a GRU are reset, update, new; oneDNN's are update, reset, new. An LSTM's are alike.
std::int64_t gates_of(Cell cell) { return cell == Cell::kGru ? 3 : 4; }

/// The weights of a GRU, [3 * hidden, columns], with the first two gates exchanged; an LSTM's as they are.
at::Tensor exchange_gates(const at::Tensor& weight, Cell cell) {
  if (cell == Cell::kLstm) return weight;
  at::Tensor result = at::empty_like(weight);
  const auto gate = static_cast<std::size_t>(weight.numel() / 3);
  const float* const from = weight.data_ptr<float>();
  auto* const to = result.data_ptr<float>();
  std::memcpy(to, from + gate, gate * sizeof(float));
  std::memcpy(to + gate, from, gate * sizeof(float));
  std::memcpy(to + 2 * gate, from + 2 * gate, gate * sizeof(float));
  return result;
}

/// oneDNN's biases, [4, hidden], from PyTorch's two.
at::Tensor join_biases(const LayerTensors& from, const LayerShape& shape) {
  at::Tensor bias = at::zeros({kBiases, shape.hidden}, from.input.options());
  if (!from.bias_ih.defined()) return bias;
  const std::int64_t hidden = shape.hidden;
  const float* const of_input = from.bias_ih.data_ptr<float>();
  const float* const of_state = from.bias_hh.data_ptr<float>();
  auto* const to = bias.data_ptr<float>();
  for (std::int64_t i = 0; i < hidden; ++i) {
    if (shape.cell == Cell::kLstm) {
      for (std::int64_t gate = 0; gate < kBiases; ++gate)
        to[gate * hidden + i] = of_input[gate * hidden + i] + of_state[gate * hidden + i];
    } else {
      to[i] = of_input[hidden + i] + of_state[hidden + i];
      to[hidden + i] = of_input[i] + of_state[i];
      to[2 * hidden + i] = of_input[2 * hidden + i];
      to[3 * hidden + i] = of_state[2 * hidden + i];
    }
  }
  return bias;
}

/// PyTorch's gradients of the biases from oneDNN's.
void part_biases(const at::Tensor& bias, const LayerShape& shape, LayerTensors& to) {
  const std::int64_t hidden = shape.hidden;
  const auto size = static_cast<std::size_t>(hidden) * sizeof(float);
  to.bias_ih = at::empty({gates_of(shape.cell) * hidden}, bias.options());
  to.bias_hh = at::empty_like(to.bias_ih);
  const float* const from = bias.data_ptr<float>();
  for (const bool of_input : {true, false}) {
    auto* const out = (of_input ? to.bias_ih : to.bias_hh).data_ptr<float>();
    if (shape.cell == Cell::kLstm) {
      std::memcpy(out, from, kBiases * size);
    } else {
      std::memcpy(out, from + hidden, size);
      std::memcpy(out + hidden, from, size);
      std::memcpy(out + 2 * hidden, from + (of_input ? 2 : 3) * hidden, size);
    }
  }
}

/// oneDNN's descriptions of PyTorch's memory: one layer and direction (ld), inputs (i), gates (g), outputs (o).
struct Layouts {
  explicit Layouts(const LayerShape& shape)
      : layer_in({shape.length, shape.batch, shape.inputs}, dnnl::memory::data_type::f32, Tag::tnc),
        layer_out({shape.length, shape.batch, shape.hidden}, dnnl::memory::data_type::f32, Tag::tnc),
        state({1, 1, shape.batch, shape.hidden}, dnnl::memory::data_type::f32, Tag::ldnc),
        weight_ih(weight(shape, shape.inputs, Tag::ldgoi)),
        weight_hh(weight(shape, shape.hidden, Tag::ldgoi)),
        any_ih(weight(shape, shape.inputs, Tag::any)),
        any_hh(weight(shape, shape.hidden, Tag::any)),
        bias({1, 1, kBiases, shape.hidden}, dnnl::memory::data_type::f32, Tag::ldgo) {}

  static Description weight(const LayerShape& shape, std::int64_t columns, Tag tag) {
    return {{1, 1, columns, gates_of(shape.cell), shape.hidden}, dnnl::memory::data_type::f32, tag};
  }

  Description layer_in, layer_out, state, weight_ih, weight_hh, any_ih, any_hh, bias;
};

dnnl::primitive_attr attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

template <typename Primitive, typename... Descriptions>
typename Primitive::primitive_desc describe_forward(dnnl::prop_kind kind, dnnl::rnn_direction direction,
                                                    const Descriptions&... descriptions) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), kind, direction, descriptions..., attributes()};
#else
  return {typename Primitive::desc(kind, direction, descriptions...), attributes(), engine()};
#endif
}

template <typename Primitive, typename Hint, typename... Descriptions>
typename Primitive::primitive_desc describe_backward(const Hint& hint, dnnl::rnn_direction direction,
                                                     const Descriptions&... descriptions) {
  constexpr auto kKind = dnnl::prop_kind::backward;
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), kKind, direction, descriptions..., hint, attributes()};
#else
  return {typename Primitive::desc(kKind, direction, descriptions...), attributes(), engine(), hint};
#endif
}

dnnl::memory memory(const Description& description, const at::Tensor& tensor) {
  return {description, engine(), tensor.data_ptr()};
}

void run(const dnnl::primitive& primitive, const Description& scratchpad, Arguments& arguments) {
  at::Tensor memory;  // of many time steps too much to be kept by the thread
  if (const auto bytes = static_cast<std::int64_t>(scratchpad.get_size()); bytes > 0) {
    memory = at::empty({bytes}, at::kByte);
    arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(scratchpad, engine(), memory.data_ptr()));
  }
  primitive.execute(onednn::stream(), arguments);
  onednn::stream().wait();
}

/// From one layout to another. Nothing where they are the same.
class Relayout {
 public:
  Relayout(Description from, Description to) : from_(std::move(from)), to_(std::move(to)) {
    if (from_ == to_) return;
    const dnnl::reorder::primitive_desc description(engine(), from_, engine(), to_, attributes());
    scratchpad_ = description.scratchpad_desc();
    reorder_ = dnnl::reorder(description);
  }

  /// That memory, or a copy in the other layout.
  dnnl::memory operator()(const at::Tensor& tensor) const {
    if (!reorder_) return memory(to_, tensor);
    dnnl::memory result(to_, engine());
    Arguments arguments{{DNNL_ARG_FROM, memory(from_, tensor)}, {DNNL_ARG_TO, result}};
    run(reorder_, scratchpad_, arguments);
    return result;
  }

  /// The same as a tensor.
  at::Tensor tensor(const at::Tensor& from) const {
    if (!reorder_) return from;
    at::Tensor to = at::empty_like(from);
    Arguments arguments{{DNNL_ARG_FROM, memory(from_, from)}, {DNNL_ARG_TO, memory(to_, to)}};
    run(reorder_, scratchpad_, arguments);
    return to;
  }

 private:
  Description from_, to_, scratchpad_;
  dnnl::primitive reorder_;
};

template <Cell kCell>
struct Primitives {
  using Forward = dnnl::lbr_gru_forward;
  using Backward = dnnl::lbr_gru_backward;
};
template <>
struct Primitives<Cell::kLstm> {
  using Forward = dnnl::lstm_forward;
  using Backward = dnnl::lstm_backward;
};

template <Cell kCell>
class OneDnnLayer final : public Layer {
  using Forward = typename Primitives<kCell>::Forward;
  using Backward = typename Primitives<kCell>::Backward;
  static constexpr bool kLstm = kCell == Cell::kLstm;

 public:
  OneDnnLayer(const LayerShape& shape, bool training)
      : shape_(shape),
        layouts_(shape),
        forward_description_(describe_forward(training)),
        forward_(forward_description_),
        to_forward_ih_(layouts_.weight_ih, forward_description_.weights_layer_desc()),
        to_forward_hh_(layouts_.weight_hh, forward_description_.weights_iter_desc()) {
    if (training) gradient_.emplace(shape, layouts_, forward_description_);
  }

  LayerResult forward(const LayerTensors& from) const override {
    return guarded([&] {
      LayerResult result;
      result.output = at::empty({shape_.length, shape_.batch, shape_.hidden}, from.input.options());
      result.h = at::empty_like(from.h);
      if (kLstm) result.c = at::empty_like(from.c);
      if (gradient_)
        result.workspace = at::empty({static_cast<std::int64_t>(forward_description_.workspace_desc().get_size())},
                                     from.input.options().dtype(at::kByte));
      const at::Tensor weight_ih = exchange_gates(from.weight_ih, kCell);
      const at::Tensor weight_hh = exchange_gates(from.weight_hh, kCell);
      const at::Tensor bias = join_biases(from, shape_);
      Arguments arguments = inputs_and_results(from, result, bias);
      arguments.emplace(DNNL_ARG_WEIGHTS_LAYER, to_forward_ih_(weight_ih));
      arguments.emplace(DNNL_ARG_WEIGHTS_ITER, to_forward_hh_(weight_hh));
      run(forward_, forward_description_.scratchpad_desc(), arguments);
      return result;
    });
  }

  LayerTensors backward(const LayerTensors& from, const LayerResult& result,
                        const LayerResult& gradients) const override {
    TORCH_INTERNAL_ASSERT(gradient_, "a layer that was not made for training");
    return guarded([&] {
      const auto or_zero = [](const at::Tensor& gradient, const at::Tensor& like) {
        return gradient.defined() ? gradient.resolve_neg().contiguous() : at::zeros_like(like);
      };
      LayerTensors to;
      to.input = at::empty_like(from.input);
      to.h = at::empty_like(from.h);
      // oneDNN adds to these.
      const at::Tensor grad_ih = at::zeros_like(from.weight_ih);
      const at::Tensor grad_hh = at::zeros_like(from.weight_hh);
      const at::Tensor grad_bias = at::zeros({kBiases, shape_.hidden}, from.input.options());
      const at::Tensor weight_ih = exchange_gates(from.weight_ih, kCell);
      const at::Tensor weight_hh = exchange_gates(from.weight_hh, kCell);
      const at::Tensor bias = join_biases(from, shape_);
      const at::Tensor grad_output = or_zero(gradients.output, result.output);
      const at::Tensor grad_h = or_zero(gradients.h, result.h);
      Arguments arguments = inputs_and_results(from, result, bias);
      arguments.emplace(DNNL_ARG_WEIGHTS_LAYER, gradient_->to_ih(weight_ih));
      arguments.emplace(DNNL_ARG_WEIGHTS_ITER, gradient_->to_hh(weight_hh));
      arguments.emplace(DNNL_ARG_DIFF_DST_LAYER, memory(layouts_.layer_out, grad_output));
      arguments.emplace(DNNL_ARG_DIFF_DST_ITER, memory(layouts_.state, grad_h));
      arguments.emplace(DNNL_ARG_DIFF_SRC_LAYER, memory(layouts_.layer_in, to.input));
      arguments.emplace(DNNL_ARG_DIFF_SRC_ITER, memory(layouts_.state, to.h));
      arguments.emplace(DNNL_ARG_DIFF_WEIGHTS_LAYER, memory(gradient_->diff_ih, grad_ih));
      arguments.emplace(DNNL_ARG_DIFF_WEIGHTS_ITER, memory(gradient_->diff_hh, grad_hh));
      arguments.emplace(DNNL_ARG_DIFF_BIAS, memory(layouts_.bias, grad_bias));
      at::Tensor grad_c;
      if constexpr (kLstm) {
        to.c = at::empty_like(from.c);
        grad_c = or_zero(gradients.c, result.c);
        arguments.emplace(DNNL_ARG_DIFF_DST_ITER_C, memory(layouts_.state, grad_c));
        arguments.emplace(DNNL_ARG_DIFF_SRC_ITER_C, memory(layouts_.state, to.c));
      }
      run(gradient_->primitive, gradient_->description.scratchpad_desc(), arguments);
      to.weight_ih = exchange_gates(gradient_->from_ih.tensor(grad_ih), kCell);
      to.weight_hh = exchange_gates(gradient_->from_hh.tensor(grad_hh), kCell);
      if (from.bias_ih.defined()) part_biases(grad_bias, shape_, to);
      return to;
    });
  }

 private:
  /// What backward() has beyond forward().
  struct Gradient {
    Gradient(const LayerShape& shape, const Layouts& layouts, const typename Forward::primitive_desc& forward)
        : diff_ih(Layouts::weight(shape, shape.inputs, Tag::ldigo)),
          diff_hh(Layouts::weight(shape, shape.hidden, Tag::ldigo)),
          description(describe(shape, layouts, forward)),
          primitive(description),
          to_ih(layouts.weight_ih, description.weights_layer_desc()),
          to_hh(layouts.weight_hh, description.weights_iter_desc()),
          from_ih(diff_ih, layouts.weight_ih),
          from_hh(diff_hh, layouts.weight_hh) {}

    typename Backward::primitive_desc describe(const LayerShape& shape, const Layouts& l,
                                               const typename Forward::primitive_desc& forward) const {
      if constexpr (kLstm)
        return describe_backward<Backward>(forward, direction_of(shape), l.layer_in, l.state, l.state, l.any_ih,
                                           l.any_hh, l.bias, l.layer_out, l.state, l.state, l.layer_in, l.state,
                                           l.state, diff_ih, diff_hh, l.bias, l.layer_out, l.state, l.state);
      else
        return describe_backward<Backward>(forward, direction_of(shape), l.layer_in, l.state, l.any_ih, l.any_hh,
                                           l.bias, l.layer_out, l.state, l.layer_in, l.state, diff_ih, diff_hh, l.bias,
                                           l.layer_out, l.state);
    }

    Description diff_ih, diff_hh;
    typename Backward::primitive_desc description;
    Backward primitive;
    Relayout to_ih, to_hh, from_ih, from_hh;
  };

  static dnnl::rnn_direction direction_of(const LayerShape& shape) {
    return shape.reverse ? dnnl::rnn_direction::unidirectional_right2left
                         : dnnl::rnn_direction::unidirectional_left2right;
  }

  typename Forward::primitive_desc describe_forward(bool training) const {
    const auto kind = training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
    const Layouts& l = layouts_;
    if constexpr (kLstm)
      return rnn::describe_forward<Forward>(kind, direction_of(shape_), l.layer_in, l.state, l.state, l.any_ih,
                                            l.any_hh, l.bias, l.layer_out, l.state, l.state);
    else
      return rnn::describe_forward<Forward>(kind, direction_of(shape_), l.layer_in, l.state, l.any_ih, l.any_hh, l.bias,
                                            l.layer_out, l.state);
  }

  Arguments inputs_and_results(const LayerTensors& from, const LayerResult& result, const at::Tensor& bias) const {
    Arguments arguments{{DNNL_ARG_SRC_LAYER, memory(layouts_.layer_in, from.input)},
                        {DNNL_ARG_SRC_ITER, memory(layouts_.state, from.h)},
                        {DNNL_ARG_BIAS, memory(layouts_.bias, bias)},
                        {DNNL_ARG_DST_LAYER, memory(layouts_.layer_out, result.output)},
                        {DNNL_ARG_DST_ITER, memory(layouts_.state, result.h)}};
    if (kLstm) {
      arguments.emplace(DNNL_ARG_SRC_ITER_C, memory(layouts_.state, from.c));
      arguments.emplace(DNNL_ARG_DST_ITER_C, memory(layouts_.state, result.c));
    }
    if (gradient_)
      arguments.emplace(DNNL_ARG_WORKSPACE, memory(forward_description_.workspace_desc(), result.workspace));
    return arguments;
  }

  /// On one thread, and with oneDNN's errors as ATen's.
  template <typename Body>
  static auto guarded(Body body) {
    const onednn::OneOpenMpThread one;
    try {
      return body();
    } catch (const dnnl::error& error) {
      TORCH_CHECK(false, "torchfeed: a recurrent layer in oneDNN: ", error.what());
    }
  }

  LayerShape shape_;
  Layouts layouts_;
  typename Forward::primitive_desc forward_description_;
  Forward forward_;
  Relayout to_forward_ih_, to_forward_hh_;
  std::optional<Gradient> gradient_;
};

std::shared_ptr<const Layer> make(const LayerShape& shape, bool training) {
  const onednn::OneOpenMpThread one;
  try {
    if (shape.cell == Cell::kGru) return std::make_shared<OneDnnLayer<Cell::kGru>>(shape, training);
    return std::make_shared<OneDnnLayer<Cell::kLstm>>(shape, training);
  } catch (const dnnl::error& error) {
    TORCH_CHECK(error.status == dnnl_unimplemented, "torchfeed: a recurrent layer in oneDNN: ", error.what());
    return nullptr;
  }
}

}  // namespace

std::shared_ptr<const Layer> Layer::find(const LayerShape& shape, bool training) {
  using Key = std::array<std::int64_t, 8>;
  thread_local onednn::RecentlyUsed<Key, std::shared_ptr<const Layer>, 256> layers;
  dnnl_fpmath_mode_t mode{};  // a primitive keeps the one that it was made in
  dnnl_get_default_fpmath_mode(&mode);
  const Key key{static_cast<std::int64_t>(shape.cell),
                shape.reverse,
                shape.length,
                shape.batch,
                shape.inputs,
                shape.hidden,
                training,
                static_cast<std::int64_t>(mode)};
  return layers.find(key, [&] { return make(shape, training); });
}

void prepare_layers() {
  onednn::OneOpenMpThread::prepare();
  engine();
}

}  // namespace torchfeed::rnn
