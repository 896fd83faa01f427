#pragma once

#include <ATen/core/Tensor.h>

namespace torchfeed {

/// An uninitialised CPU tensor for the batch that is being made.
///
/// Called in a worker process, inside `get` or `get_batch`, its memory is the batch's slot in shared
/// memory, always contiguous: what is written there reaches the trainer without a copy, if the tensor is returned as (a
/// part of) the batch. Inline and in a worker thread, tensors of 1 MiB and more have ordinary memory that the loader
/// uses again when they and all views of them are gone. Neither kind can be resized beyond its size. Smaller ones,
/// those of any size elsewhere, and all that `options` ask a memory format, pinned memory, gradients, another device or
/// layout for, are what `at::empty` gives. So a dataset may always use it.
///
/// The memory is aligned to 64 bytes and belongs to the batch: do not keep the tensor beyond `get_batch`.
/// Throws c10::Error if the batch would exceed the loader's shared_memory_budget.
/// Thread-safe: each thread has its own batch; threads that a dataset starts itself get `at::empty`.
at::Tensor empty_batch(at::IntArrayRef sizes, at::TensorOptions options = {});

}  // namespace torchfeed
