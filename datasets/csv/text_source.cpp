#include <torchfeed/datasets/csv/byte_stream.h>
#include <torchfeed/datasets/csv/text_source.h>
#include <torchfeed/datasets/data_error.h>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // of Linux 5.14; glibc 2.35 and older do not name it
#endif

namespace torchfeed::datasets::csv {
namespace {

// How far behind a block's end the end of its last line is looked for. Lines are shorter by far, or a fault.
constexpr std::size_t kLongestSearch = std::size_t{1} << 20;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Text that is all in the address space.
class MemorySource : public TextSource {
 public:
  explicit MemorySource(std::string_view text) : text_(text) {}

  std::string_view peek(std::size_t bytes) override {
    const std::size_t count = std::min(bytes, left());
    prepare(taken_, count);
    return text_.substr(taken_, count);
  }
  void skip(std::size_t bytes) override { taken_ += bytes; }

  std::optional<TextBlock> next(std::size_t bytes) override {
    if (left() == 0) return std::nullopt;
    const std::size_t begin = taken_;
    const std::size_t searched = std::min(left(), std::max<std::size_t>(bytes, 1) - 1);
    const std::size_t limit = std::min(left(), searched + kLongestSearch);
    prepare(begin, std::min(limit, searched + kMostLine));
    const auto* found = static_cast<const char*>(std::memchr(text_.data() + begin + searched, '\n', limit - searched));
    std::size_t size = limit;
    if (found != nullptr) size = static_cast<std::size_t>(found - (text_.data() + begin)) + 1;
    const bool cut = found == nullptr && size < left();
    taken_ = begin + size;
    return TextBlock{text_.substr(begin, size), cut};
  }

  std::uint64_t bytes_read() const override { return taken_; }
  std::uint64_t bytes_total() const override { return text_.size(); }

 protected:
  /// Before bytes are read for the first time.
  virtual void prepare(std::size_t begin, std::size_t bytes) {
    static_cast<void>(begin);
    static_cast<void>(bytes);
  }

 private:
  static constexpr std::size_t kMostLine = 65536;

  std::size_t left() const { return text_.size() - taken_; }

  std::string_view text_;
  std::atomic<std::size_t> taken_ = 0;
};

/// A plain file's whole address range, unmapped at the end.
class Mapping {
 public:
  explicit Mapping(const InputFile& file) : size_(file.size()) {
    void* begin = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd(), 0);
    if (begin == MAP_FAILED) return;
    begin_ = static_cast<char*>(begin);
    ::madvise(begin_, size_, MADV_SEQUENTIAL);
  }
  ~Mapping() {
    if (begin_ != nullptr) ::munmap(begin_, size_);
  }
  Mapping(Mapping&& other) noexcept : begin_(std::exchange(other.begin_, nullptr)), size_(other.size_) {}
  Mapping& operator=(Mapping&&) = delete;

  explicit operator bool() const { return begin_ != nullptr; }
  std::string_view text() const { return {begin_, size_}; }
  char* begin() const { return begin_; }

 private:
  char* begin_ = nullptr;
  std::size_t size_;
};

/// A mapped file. Only the pages of blocks that are in use are kept mapped, so that the process stays small.
class MappedSource : public MemorySource {
 public:
  MappedSource(InputFile file, Mapping mapping)
      : MemorySource(mapping.text()), file_(std::move(file)), mapping_(std::move(mapping)) {}

  void release(const TextBlock& block) noexcept override {
    // The system maps pages before those that it is asked for, up to a multiple of 64 KiB, again and again as blocks
    // come. What it takes from the neighbours is mapped again, with the same bytes.
    constexpr std::size_t kMappedAround = std::size_t{1} << 16;
    const auto first = static_cast<std::size_t>(block.text.data() - mapping_.begin());
    const auto begin = first / kMappedAround * kMappedAround;
    const auto end = static_cast<std::size_t>(block.text.data() + block.text.size() - mapping_.begin());
    ::madvise(mapping_.begin() + begin, end - begin, MADV_DONTNEED);
  }

 protected:
  // Maps the pages at once, which is faster than one by one, and finds out whether the file still has them.
  void prepare(std::size_t begin, std::size_t bytes) override {
    if (bytes == 0) return;
    struct stat status {};
    if (::fstat(file_.fd(), &status) != 0) file_.fail(errno);
    if (static_cast<std::uint64_t>(status.st_size) < begin + bytes) fail_shorter(status.st_size);
    const std::size_t page = begin / page_bytes() * page_bytes();
    if (::madvise(mapping_.begin() + page, begin + bytes - page, MADV_POPULATE_READ) == 0) return;
    if (errno == EFAULT) fail_shorter(status.st_size);
    if (errno == EHWPOISON || errno == EIO) file_.fail(errno);
    // Older kernels do not know it, and the pages come when they are touched.
  }

 private:
  [[noreturn]] void fail_shorter(off_t size) const {
    throw DataError(file_.path() + ": expected a file that stays as it is, got one that was cut from " +
                    std::to_string(mapping_.text().size()) + " to " + std::to_string(size) +
                    " bytes while it was read");
  }

  InputFile file_;
  Mapping mapping_;
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
    block.text = block.owned;
    return block;
  }

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
    if (!is_gzip(magic, file.read_at(magic, sizeof(magic), 0))) {
      if (Mapping mapping(file); mapping) return std::make_unique<MappedSource>(std::move(file), std::move(mapping));
    }
  }
  return std::make_unique<StreamSource>(stream_of(std::move(file)));
}

}  // namespace torchfeed::datasets::csv
