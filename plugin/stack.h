#pragma once

#include <torchfeed/plugin/batch_memory.h>

#include <torch/data/example.h>
#include <torch/data/transforms/collate.h>
#include <torch/types.h>

#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed {

/// Stacks tensors of one size [...] and dtype along a new first dimension: [B, ...], in the memory of the batch that is
/// being made (see empty_batch), so that a worker's samples are copied once and the trainer's batch not at all.
/// Throws c10::Error if there are none, or if their sizes differ.
at::Tensor stack_into_batch(const std::vector<at::Tensor>& tensors);

/// Takes examples apart: `collate` makes the batch's data of theirs, and targets are stacked where there are any.
template <typename Target, typename Collate>
torch::data::Example<at::Tensor, Target> collate_examples(
    std::vector<torch::data::Example<at::Tensor, Target>> examples, const Collate& collate) {
  constexpr bool kHasTargets = std::is_same_v<Target, at::Tensor>;
  std::vector<at::Tensor> data;
  std::vector<at::Tensor> targets;
  data.reserve(examples.size());
  if constexpr (kHasTargets) targets.reserve(examples.size());
  for (auto& example : examples) {
    data.push_back(std::move(example.data));
    if constexpr (kHasTargets) targets.push_back(std::move(example.target));
  }
  if constexpr (kHasTargets) {
    at::Tensor batch = collate(data);
    return {std::move(batch), stack_into_batch(targets)};
  } else {
    return collate(data);
  }
}

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
