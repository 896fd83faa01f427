#pragma once

#include <torch/script.h>

#include <string>
#include <vector>

namespace torchfeed::finetune {

/// A TorchScript model that predicts a number for each window: [B, L, C] float32 -> [B] or [B, 1] float32.
class Model {
 public:
  /// From the bytes of a TorchScript file; `name` stands for it in messages.
  /// Throws program::InputError if they are no TorchScript model.
  Model(const std::string& bytes, std::string name);

  /// Runs the model on `input` [B, L, C] and throws program::InputError, with both shapes, if it does not take that or
  /// gives anything but B finite numbers.
  void check_shapes(const torch::Tensor& input);

  /// Makes the parameters trainable but for those whose name `freeze` (if not empty) has a match in, and returns the
  /// trainable ones. Throws program::InputError if that is no regular expression, matches nothing or leaves nothing.
  std::vector<torch::Tensor> trainable_parameters(const std::string& freeze);

  /// [B, L, C] -> [B].
  torch::Tensor forward(const torch::Tensor& input);

  void train() { module_.train(); }
  void eval() { module_.eval(); }

  /// The TorchScript file, in the mode (training or evaluation) that the model is in.
  std::string bytes() const;

 private:
  std::string name_;
  torch::jit::Module module_;
};

}  // namespace torchfeed::finetune
