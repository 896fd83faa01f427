#pragma once

#include <exception>
#include <stdexcept>
#include <string>

namespace torchfeed::program {

/// Exit code of a program that could not do what it was asked, after one line on stderr that says why.
inline constexpr int kExitError = 2;

/// What the person who ran the program can put right: `what()` is the whole line but for the program's name.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What an exception says, in one line: without backtraces, and of TorchScript's tracebacks the error alone.
std::string one_line(const std::exception& error);

/// Runs `body` and gives its exit code; an exception becomes `name: what it says` on stderr and kExitError, and so does
/// output that could not be written.
template <typename Body>
int run(const char* name, Body body) noexcept;

/// What a program that would end with `code` ends with: kExitError, after a line on stderr, if not all of its output
/// could be written.
int finish(const char* name, int code) noexcept;

/// Prints `name: message` to stderr and returns kExitError.
int report(const char* name, const std::string& message) noexcept;

template <typename Body>
int run(const char* name, Body body) noexcept {
  try {
    return finish(name, body());
  } catch (const std::exception& error) {
    return report(name, one_line(error));
  } catch (...) {
    return report(name, "unknown error");
  }
}

}  // namespace torchfeed::program
