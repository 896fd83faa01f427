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

[[noreturn]] void throw_as(ErrorKind kind, const std::string& message, int worker, std::uint64_t batch,
                           const std::vector<std::size_t>& indices) {
  const c10::SourceLocation here{__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)};
  switch (kind) {
    case ErrorKind::kC10IndexError:
      throw c10::IndexError(here, message);
    case ErrorKind::kC10ValueError:
      throw c10::ValueError(here, message);
    case ErrorKind::kC10TypeError:
      throw c10::TypeError(here, message);
    case ErrorKind::kC10NotImplementedError:
      throw c10::NotImplementedError(here, message);
    case ErrorKind::kNoMemoryLeft:
    case ErrorKind::kC10Error:
      throw c10::Error(here, message);
    case ErrorKind::kInvalidArgument:
      throw std::invalid_argument(message);
    case ErrorKind::kDomainError:
      throw std::domain_error(message);
    case ErrorKind::kLengthError:
      throw std::length_error(message);
    case ErrorKind::kOutOfRange:
      throw std::out_of_range(message);
    case ErrorKind::kLogicError:
      throw std::logic_error(message);
    case ErrorKind::kRangeError:
      throw std::range_error(message);
    case ErrorKind::kOverflowError:
      throw std::overflow_error(message);
    case ErrorKind::kUnderflowError:
      throw std::underflow_error(message);
    case ErrorKind::kRuntimeError:
      throw std::runtime_error(message);
    case ErrorKind::kBadAlloc:
      throw BadAlloc(message);
    default:
      throw WorkerError(message, worker, batch, indices, 0);
  }
}

}  // namespace

void encode_current_exception(ErrorRecord& record, int worker) noexcept {
  record.worker = worker;
  record.signal = 0;
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
    out << " each time this batch was made (" << kMaxDeaths << " workers)";
    throw WorkerError(out.str(), record.worker, batch, indices, record.signal);
  }
  const std::string text(record.text, record.text_bytes);
  throw_as(kind, "torchfeed: " + place + ": " + text, record.worker, batch, indices);
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
  } else {
    out << restarts << " of them were replaced, as many as max_worker_restarts allows";
  }
  if (signal != 0) {
    out << "; the last one was killed by signal " << signal << " (" << ::strsignal(signal) << ")";
  }
  throw WorkerError(out.str(), -1, batch, indices, signal);
}

}  // namespace torchfeed::loader
