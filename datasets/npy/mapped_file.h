#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace torchfeed::datasets {

/// How the pages of a mapped file will be read: hints for the kernel, of no effect on what is read.
enum class FileAccess {
  kNormal,  ///< The kernel reads ahead, which suits a pass from begin to end.
  kRandom,  ///< Only what is touched is read, which suits windows in shuffled order.
};

/// A directory that was found by its path once. Its files are the same directory's, even if another takes its path.
/// Any thread.
class OpenDirectory {
 public:
  /// Throws `DataError`, with the system's reason, for what cannot be opened or is no directory.
  explicit OpenDirectory(const std::string& path);
  ~OpenDirectory();
  OpenDirectory(const OpenDirectory&) = delete;
  OpenDirectory& operator=(const OpenDirectory&) = delete;

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }

  /// Whether its path still leads to it.
  bool is_current() const;

 private:
  std::string path_;
  int descriptor_;
};

/// A plain file's bytes, mapped read-only for as long as this lives. Pages come from the disk when they are touched and
/// are the kernel's to take back, so that a file may be larger than memory; forked processes share them.
///
/// The file must not be cut short meanwhile: reading what is gone ends the process with SIGBUS. Replacing it by a
/// rename is safe, this stays with the old one. Const methods may be called from any thread.
class MappedFile {
 public:
  /// Throws `DataError`, with the system's reason, for what cannot be opened or mapped and for what is no plain file.
  explicit MappedFile(const std::string& path, FileAccess access = FileAccess::kNormal);
  /// The same for a file of a directory.
  MappedFile(const OpenDirectory& directory, const std::string& name, FileAccess access = FileAccess::kNormal);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Begins at a page's begin.
  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }

 private:
  /// `path` is for messages.
  void map(int descriptor, const std::string& path, FileAccess access);

  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace torchfeed::datasets
