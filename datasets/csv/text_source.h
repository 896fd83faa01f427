#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets::csv {

/// Whole lines of a text, but for `cut`.
struct TextBlock {
  /// Once it is loaded.
  std::string_view text;
  /// The only line goes on behind the block's end, and is far too long.
  bool cut = false;
  /// Holds `text`, if it is from a stream.
  std::string owned{};
  /// Where `text` is in a file.
  std::uint64_t offset = 0;
  std::size_t size = 0;
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
  /// Sets the text of a block, which may lie in `room`, as long as that and the block stay as they are. Any thread.
  virtual void load(TextBlock& block, std::vector<char>& room) const = 0;

  /// As `CsvReader` says of them. Any thread.
  virtual std::uint64_t bytes_read() const = 0;
  virtual std::uint64_t bytes_total() const = 0;
};

/// Text in memory, which must outlive this.
std::unique_ptr<TextSource> source_of_text(std::string_view text);

/// A file: read block by block, or if it is no plain file or begins as gzip does, a stream. Throws DataError, as all
/// its methods do, with the path.
std::unique_ptr<TextSource> source_of_file(const std::string& path);

}  // namespace torchfeed::datasets::csv
