#include <torchfeed/plugin/errors.h>
#include <torchfeed/plugin/loader/error_codec.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace torchfeed::loader {
namespace {

/// The types that come back as themselves. Most derived first: a type of the user's own comes back as its nearest base.
enum class ErrorKind : std::uint32_t {
  kWorkerDied,
  kUnknown,
  kStdException,
  kC10IndexError,
  kC10ValueError,
  kC10TypeError,
  kC10NotImplementedError,
  kNoMemoryLeft,
  kC10Error,
  kInvalidArgument,
  kDomainError,
  kLengthError,
  kOutOfRange,
  kLogicError,
  kRangeError,
  kOverflowError,
  kUnderflowError,
  kRuntimeError,
  kBadAlloc,
};

/// std::bad_alloc with a text.
class BadAlloc : public std::bad_alloc {
 public:
  explicit BadAlloc(std::string message) : message_(std::make_shared<std::string>(std::move(message))) {}
  const char* what() const noexcept override { return message_->c_str(); }

 private:
  std::shared_ptr<std::string> message_;  // shared: an exception's copy must not throw
};

void write(ErrorRecord& record, ErrorKind kind, const char* what) noexcept {
  const std::string_view text(what == nullptr ? "" : what);
  record.kind = static_cast<std::uint32_t>(kind);
  record.text_bytes = static_cast<std::uint32_t>(std::min(text.size(), ErrorRecord::kTextBytes));
  std::memcpy(record.text, text.data(), record.text_bytes);
}

void append_indices(std::ostream& out, const std::vector<std::size_t>& indices) {
  constexpr std::size_t kShown = 16;
  if (indices.empty()) {
    return;
  }
  out << ", indices [";
  for (std::size_t i = 0; i < std::min(indices.size(), kShown); ++i) {
    out << (i == 0 ? "" : ", ") << indices[i];
  }
  if (indices.size() > kShown) {
    out << ", ... " << indices.size() << " in all";
  }
  out << ']';
}

std::string where(int worker, std::uint64_t batch, const std::vector<std::size_t>& indices) {
  std::ostringstream out;
  if (worker >= 0) {
    out << "worker " << worker << ", ";
  }
  out << "batch " << batch;
  append_indices(out, indices);
  return out.str();
}

/// Throws `error`; in a catch block that asks for it, with the exception at hand nested in it.
template <typename Error>
[[noreturn]] void raise(Error error, bool nest) {
  if (nest) {
    std::throw_with_nested(std::move(error));
  }
  throw error;
}

[[noreturn]] void throw_as(ErrorKind kind, const std::string& message, int worker, std::uint64_t batch,
                           const std::vector<std::size_t>& indices, bool nest) {
  const c10::SourceLocation here{__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)};
  switch (kind) {
    case ErrorKind::kC10IndexError:
      raise(c10::IndexError(here, message), nest);
    case ErrorKind::kC10ValueError:
      raise(c10::ValueError(here, message), nest);
    case ErrorKind::kC10TypeError:
      raise(c10::TypeError(here, message), nest);
    case ErrorKind::kC10NotImplementedError:
      raise(c10::NotImplementedError(here, message), nest);
    case ErrorKind::kNoMemoryLeft:
    case ErrorKind::kC10Error:
      raise(c10::Error(here, message), nest);
    case ErrorKind::kInvalidArgument:
      raise(std::invalid_argument(message), nest);
    case ErrorKind::kDomainError:
      raise(std::domain_error(message), nest);
    case ErrorKind::kLengthError:
      raise(std::length_error(message), nest);
    case ErrorKind::kOutOfRange:
      raise(std::out_of_range(message), nest);
    case ErrorKind::kLogicError:
      raise(std::logic_error(message), nest);
    case ErrorKind::kRangeError:
      raise(std::range_error(message), nest);
    case ErrorKind::kOverflowError:
      raise(std::overflow_error(message), nest);
    case ErrorKind::kUnderflowError:
      raise(std::underflow_error(message), nest);
    case ErrorKind::kRuntimeError:
      raise(std::runtime_error(message), nest);
    case ErrorKind::kBadAlloc:
      raise(BadAlloc(message), nest);
    default:
      raise(WorkerError(message, worker, batch, indices, 0), nest);
  }
}

}  // namespace

void encode_current_exception(ErrorRecord& record, int worker) noexcept {
  record.worker = worker;
  record.signal = 0;
  record.deaths = 0;
  record.bytes_wanted = 0;
  // NOLINTBEGIN(bugprone-branch-clone): each type has its own kind.
  try {
    throw;
  } catch (const c10::IndexError& error) {
    write(record, ErrorKind::kC10IndexError, error.what_without_backtrace());
  } catch (const c10::ValueError& error) {
    write(record, ErrorKind::kC10ValueError, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    write(record, ErrorKind::kC10TypeError, error.what_without_backtrace());
  } catch (const c10::NotImplementedError& error) {
    write(record, ErrorKind::kC10NotImplementedError, error.what_without_backtrace());
  } catch (const NoMemoryLeft& error) {
    record.bytes_wanted = error.bytes_wanted();
    write(record, ErrorKind::kNoMemoryLeft, error.what_without_backtrace());
  } catch (const NeverFits& error) {
    record.bytes_wanted = ErrorRecord::kNeverFits;
    write(record, ErrorKind::kC10Error, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    write(record, ErrorKind::kC10Error, error.what_without_backtrace());
  } catch (const std::invalid_argument& error) {
    write(record, ErrorKind::kInvalidArgument, error.what());
  } catch (const std::domain_error& error) {
    write(record, ErrorKind::kDomainError, error.what());
  } catch (const std::length_error& error) {
    write(record, ErrorKind::kLengthError, error.what());
  } catch (const std::out_of_range& error) {
    write(record, ErrorKind::kOutOfRange, error.what());
  } catch (const std::logic_error& error) {
    write(record, ErrorKind::kLogicError, error.what());
  } catch (const std::range_error& error) {
    write(record, ErrorKind::kRangeError, error.what());
  } catch (const std::overflow_error& error) {
    write(record, ErrorKind::kOverflowError, error.what());
  } catch (const std::underflow_error& error) {
    write(record, ErrorKind::kUnderflowError, error.what());
  } catch (const std::runtime_error& error) {
    write(record, ErrorKind::kRuntimeError, error.what());
  } catch (const std::bad_alloc& error) {
    write(record, ErrorKind::kBadAlloc, error.what());
  } catch (const std::exception& error) {
    write(record, ErrorKind::kStdException, error.what());
  } catch (...) {
    write(record, ErrorKind::kUnknown, "an exception that is no std::exception");
  }
  // NOLINTEND(bugprone-branch-clone)
}

void throw_text(const ErrorRecord& record, const std::string& place, std::uint64_t batch,
                const std::vector<std::size_t>& indices, bool nest) {
  const std::string text(record.text, record.text_bytes);
  throw_as(static_cast<ErrorKind>(record.kind), "torchfeed: " + place + ": " + text, record.worker, batch, indices,
           nest);
}

void throw_error(const ErrorRecord& record, std::uint64_t batch, const std::vector<std::size_t>& indices) {
  const auto kind = static_cast<ErrorKind>(record.kind);
  const std::string place = where(record.worker, batch, indices);
  if (kind == ErrorKind::kWorkerDied) {
    std::ostringstream out;
    out << "torchfeed: " << place << ": ";
    if (record.signal != 0) {
      out << "killed by signal " << record.signal << " (" << ::strsignal(record.signal) << ")";
    } else {
      out << "the worker exited";
    }
    if (record.deaths > 1) {
      out << " each time this batch was made (" << record.deaths << " workers)";
    }
    throw WorkerError(out.str(), record.worker, batch, indices, record.signal);
  }
  throw_text(record, place, batch, indices, /*nest=*/false);
}

void throw_told_error(const ErrorRecord& record, std::uint64_t batch, const std::vector<std::size_t>& indices) {
  const auto kind = static_cast<ErrorKind>(record.kind);
  if (kind == ErrorKind::kWorkerDied) {
    throw_error(record, batch, indices);
  }
  throw_as(kind, std::string(record.text, record.text_bytes), record.worker, batch, indices, /*nest=*/false);
}

void throw_thread_error(std::exception_ptr error, int worker, std::uint64_t batch,
                        const std::vector<std::size_t>& indices) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception&) {
    throw ThreadWorkerError(std::move(error), worker, batch, indices);
  } catch (...) {
    // torch::data's exception takes nothing else to read a text from.
    ThreadWorkerError told(std::make_exception_ptr(std::runtime_error("an exception that is no std::exception")),
                           worker, batch, indices);
    told.original_exception = std::move(error);
    throw told;
  }
}

void throw_timeout(std::int64_t milliseconds, int worker, std::uint64_t batch,
                   const std::vector<std::size_t>& indices) {
  std::ostringstream out;
  out << "Timeout in DataLoader queue while waiting for next batch (timeout was " << milliseconds
      << " ms): " << where(worker, batch, indices) << (worker < 0 ? ": not taken by any worker" : "");
  throw WorkerError(out.str(), worker, batch, indices, 0);
}

void throw_no_workers(int error, std::uint32_t restarts, int signal, std::uint64_t batch,
                      const std::vector<std::size_t>& indices) {
  std::ostringstream out;
  out << "torchfeed: no worker is left for " << where(-1, batch, indices) << ": ";
  if (error < 0) {
    out << "the fork server died";
  } else if (error > 0) {
    out << "fork failed: " << std::strerror(error);
  } else if (restarts == 0) {
    out << "all of them have died";
  } else {
    out << restarts << " of them were replaced, as many as max_worker_restarts allows";
  }
  if (signal != 0) {
    out << "; the last one was killed by signal " << signal << " (" << ::strsignal(signal) << ")";
  }
  throw WorkerError(out.str(), -1, batch, indices, signal);
}

}  // namespace torchfeed::loader
