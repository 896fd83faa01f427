#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace torchfeed::datasets::csv {

/// Whole lines of a text, but for `cut`.
struct TextBlock {
  std::string_view text;
  /// The only line goes on behind the block's end, and is far too long.
  bool cut = false;
  /// Holds `text`, if nothing else does.
  std::string owned{};
};

/// A text that is taken block by block. Methods are for one thread at a time but where they say otherwise.
class TextSource {
 public:
  virtual ~TextSource() = default;
  TextSource() = default;
  TextSource(const TextSource&) = delete;
  TextSource& operator=(const TextSource&) = delete;

  /// What comes next, at least `bytes` of it or all that is left, without taking it; valid until the next call.
  virtual std::string_view peek(std::size_t bytes) = 0;
  /// Passes over bytes that were peeked at.
  virtual void skip(std::size_t bytes) = 0;
  /// Takes about so many bytes, up to the end of a line; none at the end of the text.
  virtual std::optional<TextBlock> next(std::size_t bytes) = 0;
  /// The block is not needed any more: its memory may go. Any thread.
  virtual void release(const TextBlock& block) noexcept { static_cast<void>(block); }

  /// As `CsvReader` says of them. Any thread.
  virtual std::uint64_t bytes_read() const = 0;
  virtual std::uint64_t bytes_total() const = 0;
};

/// Text in memory, which must outlive this.
std::unique_ptr<TextSource> source_of_text(std::string_view text);

/// A file: mapped, or if it is no plain file or begins as gzip does, a stream. Throws DataError, as all its methods do,
/// with the path.
std::unique_ptr<TextSource> source_of_file(const std::string& path);

}  // namespace torchfeed::datasets::csv
