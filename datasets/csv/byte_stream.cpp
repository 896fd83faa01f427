#include <torchfeed/datasets/csv/byte_stream.h>
#include <torchfeed/datasets/data_error.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

namespace torchfeed::datasets::csv {
namespace {

constexpr std::size_t kGzipInputBytes = std::size_t{1} << 18;

/// A file's bytes, after some that were read of it before.
class PlainStream : public ByteStream {
 public:
  PlainStream(InputFile file, std::string head)
      : file_(std::move(file)), head_(std::move(head)), taken_(head_.size()) {}

  std::size_t read(char* to, std::size_t bytes) override {
    const std::size_t from_head = std::min(bytes, head_.size());
    std::memcpy(to, head_.data(), from_head);
    head_.erase(0, from_head);
    const std::size_t from_file = bytes > from_head ? file_.read(to + from_head, bytes - from_head) : 0;
    taken_.fetch_add(from_file, std::memory_order_relaxed);
    return from_head + from_file;
  }
  std::uint64_t taken() const override { return taken_.load(std::memory_order_relaxed); }
  std::uint64_t total() const override { return file_.size(); }
  const std::string& path() const { return file_.path(); }

 private:
  InputFile file_;
  std::string head_;
  std::atomic<std::uint64_t> taken_;
};

/// What is in a gzip stream of one member or more (RFC 1952), zeros behind them as tapes have them.
class GzipStream : public ByteStream {
 public:
  explicit GzipStream(std::unique_ptr<PlainStream> in) : in_(std::move(in)), input_(kGzipInputBytes) {
    constexpr int kGzipWindow = 15 + 16;
    if (::inflateInit2(&zlib_, kGzipWindow) != Z_OK) throw std::bad_alloc();
  }
  ~GzipStream() override { ::inflateEnd(&zlib_); }

  std::size_t read(char* to, std::size_t bytes) override {
    std::size_t got = 0;
    while (got < bytes && !ended_) {
      if (between_members_ && !begin_member()) break;
      if (zlib_.avail_in == 0 && !fill()) fail("cut off");
      const auto room = static_cast<uInt>(std::min<std::size_t>(bytes - got, std::size_t{1} << 30));
      zlib_.next_out = reinterpret_cast<Bytef*>(to + got);
      zlib_.avail_out = room;
      const int status = ::inflate(&zlib_, Z_NO_FLUSH);
      got += room - zlib_.avail_out;
      if (status == Z_STREAM_END) {
        between_members_ = true;
      } else if (status != Z_OK && !(status == Z_BUF_ERROR && zlib_.avail_in == 0)) {
        if (status == Z_MEM_ERROR) throw std::bad_alloc();
        fail(std::string("damaged (") + (zlib_.msg != nullptr ? zlib_.msg : "no message") + ')');
      }
    }
    return got;
  }
  std::uint64_t taken() const override { return in_->taken(); }
  std::uint64_t total() const override { return in_->total(); }

 private:
  [[noreturn]] void fail(const std::string& got) const {
    throw DataError(in_->path() + ": expected a whole gzip file, got one that is " + got);
  }

  bool fill() {
    const std::size_t count = in_->read(input_.data(), input_.size());
    zlib_.next_in = reinterpret_cast<Bytef*>(input_.data());
    zlib_.avail_in = static_cast<uInt>(count);
    return count > 0;
  }

  // False at the end of the file.
  bool begin_member() {
    while (true) {
      if (zlib_.avail_in == 0 && !fill()) {
        ended_ = true;
        return false;
      }
      if (*zlib_.next_in != 0) break;
      if (first_) break;
      ++zlib_.next_in;
      --zlib_.avail_in;
    }
    constexpr Bytef kMagic = 0x1f;
    if (*zlib_.next_in != kMagic) fail("followed by something else");
    if (!first_) ::inflateReset(&zlib_);
    first_ = false;
    between_members_ = false;
    return true;
  }

  std::unique_ptr<PlainStream> in_;
  std::vector<char> input_;
  z_stream zlib_{};
  bool first_ = true;
  bool between_members_ = true;
  bool ended_ = false;
};

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd_ < 0) fail(errno);
  if (::fstat(fd_, &status) != 0) {
    const int error = errno;
    ::close(fd_);
    fail(error);
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(fd_);
    throw DataError(path_ + ": expected a CSV file, got a directory");
  }
  plain_ = S_ISREG(status.st_mode);
  size_ = plain_ ? static_cast<std::uint64_t>(status.st_size) : 0;
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(other.path_), fd_(std::exchange(other.fd_, -1)), plain_(other.plain_), size_(other.size_) {}

template <typename Read>
std::size_t InputFile::read_all(std::size_t bytes, Read read) const {
  std::size_t got = 0;
  while (got < bytes) {
    const ssize_t count = read(got);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(errno);
    if (count == 0) break;
    got += static_cast<std::size_t>(count);
  }
  return got;
}

std::size_t InputFile::read(char* to, std::size_t bytes) {
  return read_all(bytes, [&](std::size_t got) { return ::read(fd_, to + got, bytes - got); });
}

std::size_t InputFile::read_at(char* to, std::size_t bytes, std::uint64_t offset) const {
  return read_all(
      bytes, [&](std::size_t got) { return ::pread(fd_, to + got, bytes - got, static_cast<off_t>(offset + got)); });
}

void InputFile::fail(int error) const {
  throw DataError(path_ + ": expected a readable CSV file, got: " + std::generic_category().message(error));
}

bool is_gzip(const char* bytes, std::size_t count) {
  return count >= kGzipMagicBytes && bytes[0] == '\x1f' && bytes[1] == '\x8b';
}

std::unique_ptr<ByteStream> stream_of(InputFile file) {
  std::string head(kGzipMagicBytes, '\0');
  head.resize(file.read(head.data(), head.size()));
  const bool gzip = is_gzip(head.data(), head.size());
  auto plain = std::make_unique<PlainStream>(std::move(file), std::move(head));
  if (!gzip) return plain;
  return std::make_unique<GzipStream>(std::move(plain));
}

}  // namespace torchfeed::datasets::csv
