#pragma once

#include <torchfeed/plugin/loader_state.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace torchfeed::loader {

/// How requests get to workers and batches get made, without their types: what the engine and its workers know of both.
/// One for worker processes (ProcessBatchMaker), one for worker threads (ThreadBatchMaker).
class BatchMaker {
 public:
  BatchMaker() = default;
  virtual ~BatchMaker() = default;
  BatchMaker(const BatchMaker&) = delete;
  BatchMaker& operator=(const BatchMaker&) = delete;

  // ---- Worker, for a slot that it has taken ----

  /// Makes the batch that slot `slot` asks for and leaves it there. Throws what the dataset throws.
  virtual void make(int worker, std::uint32_t slot) = 0;
  /// In a catch block: leaves the exception at hand in the slot.
  virtual void fail(int worker, std::uint32_t slot) noexcept = 0;

  // ---- Trainer ----

  /// For messages: the dataset's indices that a slot's request holds, if any.
  virtual std::vector<std::size_t> indices(std::uint32_t slot) const = 0;
  /// Throws what fail() left in the slot, with the place where it was thrown.
  [[noreturn]] virtual void rethrow(std::uint32_t slot) = 0;
  /// The request of a slot as bytes.
  virtual LoaderState::Request save_request(std::uint32_t slot) const = 0;
};

}  // namespace torchfeed::loader
