#include <torchfeed/plugin/stack.h>

#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace torchfeed {
namespace {

// Larger samples leave nothing to save, and a training loop's at::stack shares them out among its threads.
constexpr std::size_t kLargestCopied = std::size_t{64} << 10;

bool is_plain(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous() &&
         !tensor.requires_grad() && !tensor.is_conj() && !tensor.is_neg() && !tensor.is_quantized() &&
         !tensor._is_zerotensor();
}

/// at::stack_out for many small tensors that lie in memory as the batch does: a sixth of its time for 32 of 1 KB. False
/// if they are not such.
bool copy_small(at::Tensor& batch, const std::vector<at::Tensor>& tensors) {
  const at::Tensor& first = tensors[0];
  const std::size_t bytes = first.nbytes();
  const bool alike =
      bytes <= kLargestCopied && std::all_of(tensors.begin(), tensors.end(), [&first](const at::Tensor& tensor) {
        return is_plain(tensor) && tensor.dtype() == first.dtype() && tensor.sizes() == first.sizes();
      });
  if (!alike || bytes == 0) {
    return false;
  }
  auto* to = static_cast<std::byte*>(batch.data_ptr());
  for (const at::Tensor& tensor : tensors) {
    std::memcpy(to, tensor.data_ptr(), bytes);
    to += bytes;
  }
  return true;
}

}  // namespace

at::Tensor stack_into_batch(const std::vector<at::Tensor>& tensors) {
  TORCH_CHECK(!tensors.empty(), "torchfeed: Stack: expected at least one example, got none");
  std::vector<std::int64_t> sizes{static_cast<std::int64_t>(tensors.size())};
  sizes.insert(sizes.end(), tensors[0].sizes().begin(), tensors[0].sizes().end());
  at::Tensor batch = empty_batch(sizes, tensors[0].options().requires_grad(false));
  if (!copy_small(batch, tensors)) {
    at::stack_out(batch, tensors);
  }
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
