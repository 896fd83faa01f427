#pragma once

#include <torch/data/worker_exception.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {

/// A worker died, hung, or threw something that has no standard type. The loader stays usable: the next
/// increment of the iterator goes on with the next batch.
class WorkerError : public std::runtime_error {
 public:
  WorkerError(const std::string& message, int worker, std::uint64_t batch, std::vector<std::size_t> indices,
              int signal);

  /// Number of the worker, or -1 if none had taken the batch.
  int worker() const noexcept { return worker_; }
  /// Number of the batch in its epoch, from 0.
  std::uint64_t batch() const noexcept { return batch_; }
  /// The dataset's indices that were asked for; empty if the request holds no indices.
  const std::vector<std::size_t>& indices() const noexcept { return indices_; }
  /// The signal that ended the worker, 0 if none.
  int signal() const noexcept { return signal_; }

 private:
  int worker_;
  std::uint64_t batch_;
  std::vector<std::size_t> indices_;
  int signal_;
};

/// What a dataset threw in a worker thread (WorkerMode::kThread): torch::data's exception with torch::data's text and
/// `original_exception`, and where it happened. The loader goes on with the next batch.
class ThreadWorkerError : public torch::data::WorkerException {
 public:
  ThreadWorkerError(std::exception_ptr original, int worker, std::uint64_t batch, std::vector<std::size_t> indices)
      : torch::data::WorkerException(std::move(original)),
        worker_(worker),
        batch_(batch),
        indices_(std::move(indices)) {}

  /// Number of the worker.
  int worker() const noexcept { return worker_; }
  /// Number of the batch in its epoch, from 0.
  std::uint64_t batch() const noexcept { return batch_; }
  /// The dataset's indices that were asked for; empty if the request holds no indices.
  const std::vector<std::size_t>& indices() const noexcept { return indices_; }

 private:
  int worker_;
  std::uint64_t batch_;
  std::vector<std::size_t> indices_;
};

}  // namespace torchfeed
