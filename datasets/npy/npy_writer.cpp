#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/npy/npy_writer.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace torchfeed::datasets {
namespace {

static_assert(std::endian::native == std::endian::little, "the headers say little endian");

// So much is written before the system is asked to begin with the disk, so that the end does not wait for all of it.
constexpr std::uint64_t kWritebackBytes = std::uint64_t{8} << 20;

std::size_t bytes_of_row(const std::vector<std::int64_t>& row_shape, std::size_t element_bytes) {
  std::size_t bytes = element_bytes;
  for (const auto size : row_shape) {
    if (size < 1) throw std::invalid_argument("NpyWriter: expected sizes of 1 or more, got " + std::to_string(size));
    bytes *= static_cast<std::size_t>(size);
  }
  return bytes;
}

}  // namespace

NpyWriter::NpyWriter(std::string path, std::string descr, std::vector<std::int64_t> row_shape,
                     std::size_t element_bytes)
    : NpyWriter(std::move(path), std::move(descr), std::move(row_shape), element_bytes,
                O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0) {
  // A header that no reader takes stands there until the file is whole.
  const std::string empty(kHeaderBytes, '\0');
  put(0, empty.data(), empty.size());
}

NpyWriter::NpyWriter(std::string path, std::string descr, std::vector<std::int64_t> row_shape,
                     std::size_t element_bytes, int open_flags, std::int64_t rows)
    : path_(std::move(path)),
      descr_(std::move(descr)),
      row_shape_(std::move(row_shape)),
      row_bytes_(bytes_of_row(row_shape_, element_bytes)),
      rows_(rows) {
  constexpr mode_t kMode = 0666;  // less the user's mask
  fd_ = ::open(path_.c_str(), open_flags, kMode);
  if (fd_ < 0) fail("cannot write");
}

NpyWriter NpyWriter::append_to(std::string path, std::string descr, std::vector<std::int64_t> row_shape,
                               std::size_t element_bytes, std::int64_t rows) {
  NpyWriter writer(std::move(path), std::move(descr), std::move(row_shape), element_bytes, O_RDWR | O_CLOEXEC, rows);
  const std::string expected = header(writer.descr_, writer.row_shape_, rows);
  std::string got(kHeaderBytes, '\0');
  struct stat status {};
  if (::fstat(writer.fd_, &status) != 0) writer.fail("cannot read");
  const auto bytes = static_cast<off_t>(kHeaderBytes + static_cast<std::size_t>(rows) * writer.row_bytes_);
  const ssize_t read = ::pread(writer.fd_, got.data(), got.size(), 0);
  if (read != static_cast<ssize_t>(kHeaderBytes) || got != expected || status.st_size != bytes) {
    throw DataError(writer.path_ + ": expected an array of " + writer.descr_ + " with " + std::to_string(rows) +
                    " rows of " + std::to_string(writer.row_bytes_) + " bytes as torchfeed writes it, got another");
  }
  return writer;
}

NpyWriter::~NpyWriter() {
  if (fd_ >= 0) ::close(fd_);
}

NpyWriter::NpyWriter(NpyWriter&& other) noexcept
    : path_(std::move(other.path_)),
      descr_(std::move(other.descr_)),
      row_shape_(std::move(other.row_shape_)),
      row_bytes_(other.row_bytes_),
      fd_(std::exchange(other.fd_, -1)),
      rows_(other.rows_),
      flushed_(other.flushed_) {}

std::int64_t NpyWriter::reserve(std::int64_t count) { return std::exchange(rows_, rows_ + count); }

void NpyWriter::write_at(std::int64_t row, std::span<const std::byte> rows) const {
  if (rows.size() % row_bytes_ != 0) {
    throw std::invalid_argument("NpyWriter: expected rows of " + std::to_string(row_bytes_) + " bytes, got " +
                                std::to_string(rows.size()) + " bytes");
  }
  put(offset_of(row), reinterpret_cast<const char*>(rows.data()), rows.size());
}

void NpyWriter::write(std::span<const std::byte> rows) {
  write_at(rows_, rows);
  reserve(static_cast<std::int64_t>(rows.size() / row_bytes_));
  written_up_to(rows_);
}

void NpyWriter::finish() {
  const std::string text = header(descr_, row_shape_, rows_);
  put(0, text.data(), text.size());
  if (::fsync(fd_) != 0) fail("cannot write");
  // Some file systems (NFS) tell of a failed write only here.
  if (::close(std::exchange(fd_, -1)) != 0) fail("cannot write");
}

// numpy.lib.format, version 1.0: a magic string, two bytes of version, two of length, a Python dictionary, blanks up to
// a multiple of 64 and a line end.
std::string NpyWriter::header(const std::string& descr, const std::vector<std::int64_t>& row_shape, std::int64_t rows) {
  std::string shape = '(' + std::to_string(rows) + ',';
  for (std::size_t i = 0; i < row_shape.size(); ++i) {
    shape += ' ' + std::to_string(row_shape[i]) + (i + 1 < row_shape.size() ? "," : "");
  }
  const std::string dictionary = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + "), }";
  constexpr std::size_t kBefore = 10;
  std::string text("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>((kHeaderBytes - kBefore) % 256);
  text += static_cast<char>((kHeaderBytes - kBefore) / 256);
  text += dictionary;
  if (text.size() >= kHeaderBytes) {
    throw std::invalid_argument("NpyWriter: expected a shape that fits a header of 128 bytes, got " + shape + ')');
  }
  text.resize(kHeaderBytes - 1, ' ');
  return text + '\n';
}

std::uint64_t NpyWriter::offset_of(std::int64_t row) const {
  return kHeaderBytes + static_cast<std::uint64_t>(row) * row_bytes_;
}

void NpyWriter::put(std::uint64_t offset, const char* bytes, std::size_t count) const {
  while (count > 0) {
    const ssize_t written = ::pwrite(fd_, bytes, count, static_cast<off_t>(offset));
    if (written < 0 && errno != EINTR) fail("cannot write");
    if (written > 0) {
      bytes += written;
      offset += static_cast<std::uint64_t>(written);
      count -= static_cast<std::size_t>(written);
    }
  }
}

void NpyWriter::written_up_to(std::int64_t end_row) {
  const std::uint64_t end = offset_of(end_row);
  if (end < flushed_ + kWritebackBytes) return;
#ifdef SYNC_FILE_RANGE_WRITE
  // Where a file system cannot, finish() waits longer.
  static_cast<void>(
      ::sync_file_range(fd_, static_cast<off_t>(flushed_), static_cast<off_t>(end - flushed_), SYNC_FILE_RANGE_WRITE));
#endif
  flushed_ = end;
}

void NpyWriter::fail(const char* what) const {
  throw std::system_error(errno, std::generic_category(), path_ + ": " + what);
}

}  // namespace torchfeed::datasets
