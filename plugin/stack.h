#pragma once

#include <torchfeed/plugin/batch_memory.h>

#include <torch/data/example.h>
#include <torch/data/transforms/collate.h>
#include <torch/types.h>

#include <vector>

namespace torchfeed {

/// Stacks tensors of one size [...] and dtype along a new first dimension: [B, ...], in the memory of the batch that is
/// being made (see empty_batch), so that a worker's samples are copied once and the trainer's batch not at all.
/// Throws c10::Error if there are none, or if their sizes differ.
at::Tensor stack_into_batch(const std::vector<at::Tensor>& tensors);

template <typename ExampleType = torch::data::Example<>>
struct Stack;

/// torch::data's Stack<> for map-style datasets, `dataset.map(torchfeed::Stack<>())`, without the copy into the slot.
template <>
struct Stack<torch::data::Example<>> : torch::data::transforms::Collation<torch::data::Example<>> {
  torch::data::Example<> apply_batch(std::vector<torch::data::Example<>> examples) override;
};

/// The same for examples without a target.
template <>
struct Stack<torch::data::TensorExample>
    : torch::data::transforms::Collation<torch::data::Example<torch::Tensor, torch::data::example::NoTarget>> {
  torch::data::TensorExample apply_batch(std::vector<torch::data::TensorExample> examples) override;
};

}  // namespace torchfeed
