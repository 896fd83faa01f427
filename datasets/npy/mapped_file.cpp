#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/npy/mapped_file.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace torchfeed::datasets {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& doing, int error) {
  throw DataError(path + ": " + doing + std::generic_category().message(error));
}

struct Descriptor {
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
  int value;
};

}  // namespace

MappedFile::MappedFile(const std::string& path, FileAccess access) {
  // Not blocking, as a pipe that nobody writes to would be waited for before fstat can tell that it is one.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.value < 0) fail(path, "", errno);
  struct stat status {};
  if (::fstat(file.value, &status) != 0) fail(path, "", errno);
  if (S_ISDIR(status.st_mode)) throw DataError(path + ": expected a file, got a directory");
  if (!S_ISREG(status.st_mode)) throw DataError(path + ": expected a plain file, got a device, a pipe or a socket");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // nothing can be mapped
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
  if (data == MAP_FAILED) fail(path, "cannot be mapped: ", errno);
  if (access == FileAccess::kRandom) ::madvise(data, size_, MADV_RANDOM);  // a hint: its failure changes no result
  data_ = static_cast<const std::uint8_t*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

}  // namespace torchfeed::datasets
