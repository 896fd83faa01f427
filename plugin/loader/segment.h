#pragma once

#include <torchfeed/plugin/loader/file_descriptor.h>
#include <torchfeed/plugin/loader/fork_depth.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace torchfeed::loader {

/// Shared memory of the loader and its workers: one nameless memfd, mapped before they fork, so that an address
/// means the same in all of them. Addresses are reserved at once, pages are committed piece by piece, so that
/// running out of memory is an error code here and never SIGBUS later.
///
/// Dies with the last process that maps it; nothing of it is ever seen in /dev/shm. Its pages are given back as soon as
/// the process that made it destroys it, as unrelated children of that process may still map it.
/// commit() and release() may be called by any process on ranges that it owns.
class Segment {
 public:
  /// Reserves `bytes` of addresses. Throws std::system_error if not even that can be had.
  explicit Segment(std::size_t bytes);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

  /// Gives memory to [offset, offset + bytes). Returns 0, or the errno that tells why there is none.
  int commit(std::size_t offset, std::size_t bytes) noexcept;

  /// Gives the pages of [offset, offset + bytes) back to the system; they read as zeros after.
  void release(std::size_t offset, std::size_t bytes) noexcept;

 private:
  struct Mapping;  // keeps Boost.Interprocess out of this header
  FileDescriptor descriptor_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::unique_ptr<Mapping> mapping_;
  const std::uint32_t owner_depth_ = fork_depth();
};

}  // namespace torchfeed::loader
