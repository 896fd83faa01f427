#include <torchfeed/plugin/loader/trace.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

// Source of the format: "Trace Event Format",
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

namespace torchfeed::loader {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 16;

/// Microseconds with their fraction, whatever the locale writes between them.
std::string microseconds(std::int64_t nanoseconds) {
  char text[32];
  std::snprintf(text, sizeof(text), "%lld.%03lld", static_cast<long long>(nanoseconds / 1000),
                static_cast<long long>(nanoseconds % 1000));
  return text;
}

template <typename... Values>
std::string format(const char* text, Values... values) {
  char buffer[256];
  std::snprintf(buffer, sizeof(buffer), text, values...);
  return buffer;
}

}  // namespace

Trace::Trace(std::string path)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666)) {
  if (file_.get() < 0) {
    throw std::system_error(errno, std::generic_category(), "torchfeed: trace: " + path_);
  }
  buffer_ = "[\n";
  buffer_ += format(R"({"name":"process_name","ph":"M","pid":%d,"args":{"name":"torchfeed"}})", ::getpid());
  name_row(kTrainer, "trainer");
}

void Trace::name_workers(int count) {
  for (; named_workers_ < count; ++named_workers_) {
    name_row(named_workers_ + 1, "worker " + std::to_string(named_workers_));
  }
}

void Trace::name_row(int row, const std::string& name) {
  add(format(R"({"name":"thread_name","ph":"M","pid":%d,"tid":%d,"args":{"name":"%s"}})", ::getpid(), row,
             name.c_str()));
}

Trace::~Trace() {
  if (owner_depth_ != fork_depth()) {
    return;  // a fork of the trainer: the file is its parent's
  }
  buffer_ += "\n]\n";
  flush();
}

void Trace::span(const char* name, int row, std::int64_t begin, std::int64_t duration, std::uint64_t epoch,
                 std::uint64_t batch) {
  add(format(R"({"name":"%s","ph":"X","pid":%d,"tid":%d,"ts":%s,"dur":%s,"args":{"epoch":%llu,"batch":%llu}})", name,
             ::getpid(), row, microseconds(begin).c_str(), microseconds(duration).c_str(),
             static_cast<unsigned long long>(epoch), static_cast<unsigned long long>(batch)));
}

void Trace::instant(const std::string& name, int row, std::int64_t when) {
  add("{\"name\":\"" + name + '"' +
      format(R"(,"ph":"i","s":"t","pid":%d,"tid":%d,"ts":%s})", ::getpid(), row, microseconds(when).c_str()));
}

void Trace::add(const std::string& event) {
  buffer_ += ",\n" + event;
  if (buffer_.size() >= kBufferBytes) {
    flush();
  }
}

void Trace::flush() {
  const std::string text = std::exchange(buffer_, {});
  if (file_.get() < 0) {
    return;
  }
  for (std::size_t written = 0; written < text.size();) {
    const ssize_t count = ::write(file_.get(), text.data() + written, text.size() - written);
    if (count > 0) {
      written += static_cast<std::size_t>(count);
    } else if (errno != EINTR) {
      std::fprintf(stderr, "torchfeed: trace: %s: %s; the trace ends here\n", path_.c_str(), std::strerror(errno));
      file_ = FileDescriptor();
      return;
    }
  }
}

}  // namespace torchfeed::loader
