#pragma once

#include <ATen/core/Tensor.h>
#include <torch/data/example.h>

#include <concepts>
#include <cstddef>
#include <optional>
#include <vector>

namespace torchfeed::loader {

template <typename>
inline constexpr bool kIsVector = false;
template <typename T>
inline constexpr bool kIsVector<std::vector<T>> = true;

/// How many samples a batch holds, where its type can tell: a tensor's first dimension, that of an example's data, a
/// vector's size (but a vector of tensors may be the parts of one sample).
template <typename Batch>
std::optional<std::size_t> samples_in([[maybe_unused]] const Batch& batch) {
  if constexpr (std::same_as<Batch, at::Tensor>) {
    return batch.defined() && batch.dim() > 0 ? std::optional(static_cast<std::size_t>(batch.size(0))) : std::nullopt;
  } else if constexpr (kIsVector<Batch> && !std::same_as<Batch, std::vector<at::Tensor>>) {
    return batch.size();
  } else if constexpr (requires { batch.data.defined(); }) {
    return samples_in(batch.data);
  } else {
    return std::nullopt;
  }
}

}  // namespace torchfeed::loader
