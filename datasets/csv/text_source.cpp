#include <torchfeed/datasets/csv/byte_stream.h>
#include <torchfeed/datasets/csv/text_source.h>
#include <torchfeed/datasets/data_error.h>

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace torchfeed::datasets::csv {
namespace {

// How far behind a block's end the end of its last line is looked for. Lines are shorter by far, or a fault.
constexpr std::size_t kLongestSearch = std::size_t{1} << 20;

/// Text that is all in the address space.
class MemorySource : public TextSource {
 public:
  explicit MemorySource(std::string_view text) : text_(text) {}

  std::string_view peek(std::size_t bytes) override { return text_.substr(taken_, bytes); }
  void skip(std::size_t bytes) override { taken_ += bytes; }

  std::optional<TextBlock> next(std::size_t bytes) override {
    const std::string_view rest = text_.substr(taken_);
    if (rest.empty()) return std::nullopt;
    const std::size_t searched = std::min(rest.size(), std::max<std::size_t>(bytes, 1) - 1);
    const std::size_t limit = std::min(rest.size(), searched + kLongestSearch);
    const std::size_t found = rest.substr(0, limit).find('\n', searched);
    const std::size_t size = found == std::string_view::npos ? limit : found + 1;
    taken_ += size;
    return TextBlock{rest.substr(0, size), found == std::string_view::npos && size < rest.size()};
  }

  void load(TextBlock& /*block*/, std::vector<char>& /*room*/) const override {}  // all is there

  std::uint64_t bytes_read() const override { return taken_; }
  std::uint64_t bytes_total() const override { return text_.size(); }

 private:
  std::string_view text_;
  std::atomic<std::size_t> taken_ = 0;
};

/// A plain file. Of a block only the end is read when it is taken, so that others wait for a moment alone; all of it is
/// read by the thread that parses it.
class FileSource : public TextSource {
 public:
  explicit FileSource(InputFile file) : file_(std::move(file)) {
    ::posix_fadvise(file_.fd(), 0, 0, POSIX_FADV_SEQUENTIAL);
  }

  std::string_view peek(std::size_t bytes) override {
    head_.resize(std::min<std::uint64_t>(bytes, left()));
    read(head_.data(), head_.size(), taken_);
    return head_;
  }
  void skip(std::size_t bytes) override {
    taken_ += bytes;
    head_ = {};  // no longer needed
  }

  std::optional<TextBlock> next(std::size_t bytes) override {
    if (left() == 0) return std::nullopt;
    TextBlock block;
    block.offset = taken_;
    block.size = std::min<std::uint64_t>(left(), std::max<std::size_t>(bytes, 1) - 1);
    const std::size_t limit = std::min<std::uint64_t>(left(), block.size + kLongestSearch);
    std::array<char, kSearchBytes> part;
    bool found = false;
    while (!found && block.size < limit) {
      const std::size_t count = std::min(part.size(), limit - block.size);
      read(part.data(), count, block.offset + block.size);
      const auto* const end = static_cast<const char*>(std::memchr(part.data(), '\n', count));
      found = end != nullptr;
      block.size += found ? static_cast<std::size_t>(end - part.data()) + 1 : count;
    }
    block.cut = !found && block.size < left();
    taken_ += block.size;
    return block;
  }

  void load(TextBlock& block, std::vector<char>& room) const override {
    if (room.size() < block.size) room.resize(block.size);
    read(room.data(), block.size, block.offset);
    block.text = {room.data(), block.size};
  }

  std::uint64_t bytes_read() const override { return taken_; }
  std::uint64_t bytes_total() const override { return file_.size(); }

 private:
  static constexpr std::size_t kSearchBytes = 4096;

  std::uint64_t left() const { return file_.size() - taken_; }

  void read(char* to, std::size_t bytes, std::uint64_t offset) const {
    if (file_.read_at(to, bytes, offset) == bytes) return;
    throw DataError(file_.path() + ": expected a file that stays as it is, got one that was cut from " +
                    std::to_string(file_.size()) + " to fewer than " + std::to_string(offset + bytes) +
                    " bytes while it was read");
  }

  InputFile file_;
  std::atomic<std::uint64_t> taken_ = 0;
  std::string head_;
};

class StreamSource : public TextSource {
 public:
  explicit StreamSource(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

  std::string_view peek(std::size_t bytes) override {
    fill(bytes);
    return {pending_.data(), std::min(bytes, pending_.size())};
  }
  void skip(std::size_t bytes) override { pending_.erase(0, bytes); }

  std::optional<TextBlock> next(std::size_t bytes) override {
    fill(bytes);
    if (pending_.empty()) return std::nullopt;
    std::size_t searched = std::min(bytes, pending_.size()) - 1;
    const std::size_t limit = searched + kLongestSearch;
    std::size_t found = pending_.find('\n', searched);
    while (found == std::string::npos && pending_.size() < limit) {
      searched = pending_.size();
      fill(searched + kMore);
      if (pending_.size() == searched) break;
      found = pending_.find('\n', searched);
    }
    TextBlock block;
    block.cut = found == std::string::npos && !ended_;
    const std::size_t size = std::min(found, pending_.size() - 1) + 1;
    // The small rest is copied, the block is not.
    std::string rest = pending_.substr(size);
    pending_.resize(size);
    block.owned = std::exchange(pending_, std::move(rest));
    return block;
  }
  void load(TextBlock& block, std::vector<char>& /*room*/) const override { block.text = block.owned; }

  std::uint64_t bytes_read() const override { return stream_->taken(); }
  std::uint64_t bytes_total() const override { return stream_->total(); }

 private:
  static constexpr std::size_t kMore = std::size_t{1} << 14;

  // Until so many bytes are pending, or there are no more.
  void fill(std::size_t bytes) {
    if (ended_ || pending_.size() >= bytes) return;
    const std::size_t had = pending_.size();
    pending_.resize(bytes);
    const std::size_t got = stream_->read(pending_.data() + had, bytes - had);
    pending_.resize(had + got);
    ended_ = had + got < bytes;
  }

  std::unique_ptr<ByteStream> stream_;
  std::string pending_;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<TextSource> source_of_text(std::string_view text) { return std::make_unique<MemorySource>(text); }

std::unique_ptr<TextSource> source_of_file(const std::string& path) {
  InputFile file(path);
  // Files of size 0 may have content nevertheless, as those of /proc.
  if (file.is_plain() && file.size() > 0) {
    char magic[kGzipMagicBytes];
    const bool gzip = is_gzip(magic, file.read_at(magic, sizeof(magic), 0));
    if (!gzip) return std::make_unique<FileSource>(std::move(file));
  }
  return std::make_unique<StreamSource>(stream_of(std::move(file)));
}

}  // namespace torchfeed::datasets::csv
