#pragma once

#include <torchfeed/plugin/loader/file_descriptor.h>
#include <torchfeed/plugin/loader/fork_depth.h>

#include <cstdint>
#include <string>

namespace torchfeed::loader {

/// A run as a timeline, in the Trace Event Format's JSON array that chrome://tracing and ui.perfetto.dev open: a row
/// for the trainer and one for each worker. A file that was cut off (the trainer was killed) opens, too. One thread at
/// a time.
class Trace {
 public:
  /// Overwrites `path`. Throws std::system_error if it cannot be written.
  explicit Trace(std::string path);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  /// Row of the trainer; worker w has row w + 1.
  static constexpr int kTrainer = 0;

  /// Something that took a while. Times are steady_clock's nanoseconds; `name` needs no escapes.
  void span(const char* name, int row, std::int64_t begin, std::int64_t duration, std::uint64_t epoch,
            std::uint64_t batch);
  /// Something that happened. `name` needs no escapes.
  void instant(const std::string& name, int row, std::int64_t when);
  /// Names the rows of the first `count` workers.
  void name_workers(int count);
  /// Writes what is in memory. If that fails (the disk is full) it warns, and nothing more is written.
  void flush();

 private:
  void name_row(int row, const std::string& name);
  void add(const std::string& event);

  std::string path_;
  FileDescriptor file_;
  std::string buffer_;
  int named_workers_ = 0;
  const std::uint32_t owner_depth_ = fork_depth();
};

}  // namespace torchfeed::loader
