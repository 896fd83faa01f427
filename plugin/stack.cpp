#include <torchfeed/plugin/stack.h>

#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

namespace torchfeed {

at::Tensor stack_into_batch(const std::vector<at::Tensor>& tensors) {
  TORCH_CHECK(!tensors.empty(), "torchfeed: Stack: expected at least one example, got none");
  std::vector<std::int64_t> sizes{static_cast<std::int64_t>(tensors.size())};
  sizes.insert(sizes.end(), tensors[0].sizes().begin(), tensors[0].sizes().end());
  at::Tensor batch = empty_batch(sizes, tensors[0].options().requires_grad(false));
  at::stack_out(batch, tensors);
  return batch;
}

torch::data::Example<> Stack<torch::data::Example<>>::apply_batch(std::vector<torch::data::Example<>> examples) {
  return collate_examples(std::move(examples), stack_into_batch);
}

torch::data::TensorExample Stack<torch::data::TensorExample>::apply_batch(
    std::vector<torch::data::TensorExample> examples) {
  return collate_examples(std::move(examples), stack_into_batch);
}

}  // namespace torchfeed
