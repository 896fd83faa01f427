#include "program.h"

#include <c10/util/Exception.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace torchfeed::program {
namespace {

// TorchScript's messages are a traceback with the source, then "RuntimeError: ..." as the last paragraph.
std::string_view without_traceback(std::string_view text) {
  if (text.find("Traceback of TorchScript") == std::string_view::npos) return text;
  const size_t error = text.rfind("Error: ");
  return error == std::string_view::npos ? text : text.substr(error + std::string_view("Error: ").size());
}

}  // namespace

std::string one_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  std::string line;
  for (const char c : without_traceback(text)) {
    if (c != '\n' && c != '\r' && c != '\t' && c != ' ') {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

int finish(const char* name, int code) noexcept {
  // Earlier errors stay in the stream; a full disk may show only now.
  const bool failed = std::ferror(stdout) != 0;
  if (std::fflush(stdout) == 0 && !failed) return code;
  const std::string reason = failed ? "" : std::string(": ") + std::strerror(errno);
  return report(name, "standard output could not be written" + reason);
}

int report(const char* name, const std::string& message) noexcept {
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", name, message.c_str());
  return kExitError;
}

}  // namespace torchfeed::program
