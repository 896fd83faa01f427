#pragma once

#include <torchfeed/datasets/data_error.h>

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>
#include <torch/types.h>

#include <cstddef>
#include <memory>
#include <string>

namespace torchfeed::datasets {

/// Samples in two .npy files of the user's own, as numpy.save writes them: X.npy [N, ...] and y.npy [N, ...], of any
/// types and shapes that LibTorch has. Sample i is (X[i], y[i]).
///
/// The files are mapped, not read: they may be larger than memory, opening takes no time, and a batch touches its own
/// samples alone. They must not be cut short while the dataset lives; see MappedFile.
///
/// Copies share the mappings. All methods may be called from many threads at once, and in forked processes.
class MappedTensorDataset : public torch::data::datasets::BatchDataset<MappedTensorDataset, torch::data::Example<>> {
 public:
  /// Throws `DataError` for files that are no .npy arrays in C order with exactly their shape's bytes, for scalars, for
  /// arrays whose first dimensions differ, and for types that this LibTorch has not.
  MappedTensorDataset(const std::string& x_path, const std::string& y_path);

  /// Gathers the samples at `indices` (in any order, repeats allowed): data [B, ...] and target [B, ...], in the files'
  /// types and in memory from `empty_batch`, so that a loader's worker writes straight into the batch's slot.
  /// c10::IndexError if an index is not below `size()`.
  torch::data::Example<> get_batch(c10::ArrayRef<std::size_t> indices) override;

  /// N.
  torch::optional<std::size_t> size() const override;

  /// The whole arrays without a copy. Read them only: writing to one ends the process with SIGSEGV.
  torch::Tensor data() const;
  torch::Tensor targets() const;

 private:
  struct Files;

  std::shared_ptr<const Files> files_;
};

}  // namespace torchfeed::datasets
