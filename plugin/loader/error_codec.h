#pragma once

#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

namespace torchfeed::loader {

/// In a catch block of a worker: writes down the exception at hand.
void encode_current_exception(ErrorRecord& record, int worker) noexcept;

/// In the trainer: throws what the record tells. Standard and c10 exceptions keep their type; a dead worker and all
/// else becomes a WorkerError. The text names worker, batch and indices.
[[noreturn]] void throw_error(const ErrorRecord& record, std::uint64_t batch, const std::vector<std::size_t>& indices);

/// The same, but the text of an exception that was thrown in a worker stands alone: it tells its place itself.
[[noreturn]] void throw_told_error(const ErrorRecord& record, std::uint64_t batch,
                                   const std::vector<std::size_t>& indices);

/// Throws an exception that was thrown elsewhere, of the type that throw_error would give it, with `place` before its
/// text. `nest`: in a catch block; the exception at hand is nested in it (std::rethrow_if_nested).
[[noreturn]] void throw_text(const ErrorRecord& record, const std::string& place, std::uint64_t batch,
                             const std::vector<std::size_t>& indices, bool nest);

/// In the trainer: throws torch::data's WorkerException with what a worker thread threw, and its place.
[[noreturn]] void throw_thread_error(std::exception_ptr error, int worker, std::uint64_t batch,
                                     const std::vector<std::size_t>& indices);

/// In the trainer: no result for a batch within the time-out. `worker` is -1 if none has taken the batch.
[[noreturn]] void throw_timeout(std::int64_t milliseconds, int worker, std::uint64_t batch,
                                const std::vector<std::size_t>& indices);

/// In the trainer: there is no worker and there will be none. `error` is the errno of the fork that failed, 0 if the
/// restarts are used up, -1 if the fork server is dead. `signal` ended the last worker, 0 if none did.
[[noreturn]] void throw_no_workers(int error, std::uint32_t restarts, int signal, std::uint64_t batch,
                                   const std::vector<std::size_t>& indices);

}  // namespace torchfeed::loader
