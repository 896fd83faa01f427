#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace torchfeed::datasets::csv {

/// An open file, closed at the end. Throws DataError, with the path, for what the system refuses.
class InputFile {
 public:
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  bool is_plain() const { return plain_; }
  /// At opening; 0 if it is no plain file.
  std::uint64_t size() const { return size_; }

  /// Up to so many bytes; fewer only at the end.
  std::size_t read(char* to, std::size_t bytes);
  /// The same from `offset` on, of a plain file. Any thread.
  std::size_t read_at(char* to, std::size_t bytes, std::uint64_t offset) const;
  [[noreturn]] void fail(int error) const;

 private:
  template <typename Read>
  std::size_t read_all(std::size_t bytes, Read read) const;

  std::string path_;
  int fd_ = -1;
  bool plain_ = false;
  std::uint64_t size_ = 0;
};

/// Bytes that are read once, from the first to the last. One thread at a time, but `taken`.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  ByteStream() = default;
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  /// Up to so many bytes; fewer only at the end. Throws DataError.
  virtual std::size_t read(char* to, std::size_t bytes) = 0;
  /// Bytes of the file taken so far. Any thread.
  virtual std::uint64_t taken() const = 0;
  /// Size of the file, 0 if unknown.
  virtual std::uint64_t total() const = 0;
};

/// The bytes of `file`, decompressed if they begin as gzip does.
std::unique_ptr<ByteStream> stream_of(InputFile file);

inline constexpr std::size_t kGzipMagicBytes = 2;
bool is_gzip(const char* bytes, std::size_t count);

}  // namespace torchfeed::datasets::csv
