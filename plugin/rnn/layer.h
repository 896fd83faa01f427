#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace torchfeed::rnn {

enum class Cell { kGru, kLstm };

/// A layer in one direction, over batches of one shape.
struct LayerShape {
  Cell cell = Cell::kGru;
  /// From the last time step to the first.
  bool reverse = false;
  std::int64_t length = 0;
  std::int64_t batch = 0;
  std::int64_t inputs = 0;
  std::int64_t hidden = 0;
};

/// What a layer computes from, or the gradients of that: float32, contiguous, on the CPU, in PyTorch's layout, with G
/// gates (3 of a GRU, 4 of an LSTM).
struct LayerTensors {
  at::Tensor input;      // [length, batch, inputs]
  at::Tensor h;          // [batch, hidden]
  at::Tensor c;          // the same; of an LSTM only
  at::Tensor weight_ih;  // [G * hidden, inputs]
  at::Tensor weight_hh;  // [G * hidden, hidden]
  at::Tensor bias_ih;    // [G * hidden]; undefined: none
  at::Tensor bias_hh;
};

/// What a layer computes, or the gradients of that.
struct LayerResult {
  at::Tensor output;  // [length, batch, hidden]
  at::Tensor h;       // [batch, hidden], after the last step
  at::Tensor c;       // the same; of an LSTM only
  /// What backward() needs; undefined where the layer was not made for it.
  at::Tensor workspace;
};

/// A layer of a GRU or an LSTM in a oneDNN primitive, forward and, if it was made for that, backward. GRUs are
/// PyTorch's, which multiply by the reset gate after the linear map ("linear before reset" at oneDNN). Runs on the
/// calling thread alone. Both functions may be called by any thread, by several at once, and throw c10::Error if oneDNN
/// fails.
class Layer {
 public:
  virtual ~Layer() = default;

  /// The one for that shape and oneDNN's fpmath mode as it is now, or null where oneDNN has none. Kept for the calling
  /// thread, the last 256. Threads share none of this, so that finding one takes no lock. Making one does: oneDNN keeps
  /// a cache of its own for the whole process, whose lock another thread that makes a primitive at that moment would
  /// hold in a forked child. Throws c10::Error if oneDNN fails.
  static std::shared_ptr<const Layer> find(const LayerShape& shape, bool training);

  virtual LayerResult forward(const LayerTensors& from) const = 0;

  /// `result` is that of this layer's forward() with the same tensors. Undefined gradients are taken as zero.
  virtual LayerTensors backward(const LayerTensors& from, const LayerResult& result,
                                const LayerResult& gradients) const = 0;
};

/// Looks up what layers need and a forked child may not: see onednn::OneOpenMpThread::prepare().
void prepare_layers();

}  // namespace torchfeed::rnn
