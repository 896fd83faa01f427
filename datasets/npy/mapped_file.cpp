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

// Not blocking, as a pipe that nobody writes to would be waited for before fstat can tell that it is one.
constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

struct Descriptor {
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
  int value;
};

}  // namespace

OpenDirectory::OpenDirectory(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0) fail(path, "", errno);
}

OpenDirectory::~OpenDirectory() { ::close(descriptor_); }

bool OpenDirectory::is_current() const {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor_, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

MappedFile::MappedFile(const std::string& path, FileAccess access) {
  const Descriptor file{::open(path.c_str(), kOpenFlags)};
  map(file.value, path, access);
}

MappedFile::MappedFile(const OpenDirectory& directory, const std::string& name, FileAccess access) {
  const Descriptor file{::openat(directory.descriptor(), name.c_str(), kOpenFlags)};
  map(file.value, directory.path() + "/" + name, access);
}

void MappedFile::map(int descriptor, const std::string& path, FileAccess access) {
  if (descriptor < 0) fail(path, "", errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail(path, "", errno);
  if (S_ISDIR(status.st_mode)) throw DataError(path + ": expected a file, got a directory");
  if (!S_ISREG(status.st_mode)) throw DataError(path + ": expected a plain file, got a device, a pipe or a socket");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // nothing can be mapped
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) fail(path, "cannot be mapped: ", errno);
  if (access == FileAccess::kRandom) ::madvise(data, size_, MADV_RANDOM);  // a hint: its failure changes no result
  data_ = static_cast<const std::uint8_t*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

}  // namespace torchfeed::datasets
