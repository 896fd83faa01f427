#pragma once

#include <ATen/core/Tensor.h>
#include <torch/data/example.h>

#include <concepts>
#include <cstddef>
#include <optional>

namespace torchfeed::loader {

/// How many samples a batch holds, where its type can tell: a tensor's first dimension, an example's data, a
/// container's size.
template <typename Batch>
std::optional<std::size_t> samples_in(const Batch& batch) {
  if constexpr (std::same_as<Batch, at::Tensor>) {
    return batch.defined() && batch.dim() > 0 ? std::optional(static_cast<std::size_t>(batch.size(0))) : std::nullopt;
  } else if constexpr (requires {
                         { batch.size() } -> std::convertible_to<std::size_t>;
                       }) {
    return static_cast<std::size_t>(batch.size());
  } else if constexpr (requires {
                         batch.data;
                         batch.target;
                       }) {
    return samples_in(batch.data);
  } else {
    return std::nullopt;
  }
}

}  // namespace torchfeed::loader
