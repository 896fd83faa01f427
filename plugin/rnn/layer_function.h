#pragma once

#include <torchfeed/plugin/rnn/layer.h>

namespace torchfeed::rnn {

/// Runs a layer of that shape in oneDNN, or in LibTorch's operators where oneDNN has none, with gradients for what
/// requires them. The tensors need not be contiguous. The result has no workspace.
LayerResult run_layer(const LayerShape& shape, const LayerTensors& from);

}  // namespace torchfeed::rnn
