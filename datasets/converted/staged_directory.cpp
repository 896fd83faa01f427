#include <torchfeed/datasets/converted/staged_directory.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

namespace torchfeed::datasets::converted {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".torchfeed-tmp";
constexpr std::string_view kOld = ".torchfeed-old";

[[noreturn]] void fail(const fs::path& path, const char* what, int error) {
  throw std::system_error(error, std::generic_category(), path.string() + ": " + what);
}

void check(const fs::path& path, const char* what, const std::error_code& error) {
  if (error) throw std::system_error(error, path.string() + ": " + what);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Without this a crash of the machine may undo a rename. Not all file systems can.
void sync_directory(const fs::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() >= 0) ::fsync(fd.get());
}

bool is_same(int fd, const fs::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

// A lock on the directory itself goes with the process, however that ends. -1 if another has it, or it is gone.
int try_lock(const fs::path& path) {
  while (true) {
    Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (fd.get() < 0 && errno == ENOENT) return -1;
    if (fd.get() < 0) fail(path, "cannot open", errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail(path, "cannot lock", errno);
      return -1;
    }
    // Another may have moved it to its target, or removed it, before the lock.
    if (is_same(fd.get(), path)) return fd.release();
  }
}

// After a run that ended between two renames.
void bring_back(const fs::path& old, const fs::path& target) {
  std::error_code error;
  if (!fs::exists(old)) return;
  if (fs::exists(target)) {
    fs::remove_all(old, error);
    check(old, "cannot remove", error);
  } else {
    fs::rename(old, target, error);
    check(old, "cannot rename", error);
  }
}

std::string hidden(const std::string& name, std::string_view suffix) { return '.' + name + std::string(suffix); }

}  // namespace

StagedDirectory::StagedDirectory(const fs::path& parent, const std::string& name)
    : target_(parent / name), path_(parent / hidden(name, kTemporary)), old_(parent / hidden(name, kOld)) {
  std::error_code error;
  fs::create_directories(parent, error);
  check(parent, "cannot make the directory", error);
  lock();
  try {
    bring_back(old_, target_);
    for (const auto& entry : fs::directory_iterator(path_)) fs::remove_all(entry.path());
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(path_, ignored);
  ::close(lock_);
}

void StagedDirectory::lock() {
  std::error_code error;
  fs::create_directory(path_, error);
  check(path_, "cannot make the directory", error);
  lock_ = try_lock(path_);
  if (lock_ < 0) throw std::runtime_error(target_.string() + ": another conversion is writing it");
}

void StagedDirectory::commit() {
  sync_directory(path_);
  std::error_code error;
  if (fs::exists(target_)) {
    exchange();
    committed_ = true;
    sync_directory(target_.parent_path());
    // Whoever has its files mapped keeps them.
    fs::remove_all(path_, error);
    check(path_, "cannot remove", error);
  } else {
    fs::rename(path_, target_, error);
    check(target_, "cannot rename to it", error);
    committed_ = true;
    sync_directory(target_.parent_path());
  }
}

// Both in one step, or else in two, between which an end of the process leaves the old one for `bring_back`.
void StagedDirectory::exchange() {
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail(target_, "cannot replace", errno);
#endif
  std::error_code error;
  fs::rename(target_, old_, error);
  check(target_, "cannot rename", error);
  fs::rename(path_, target_, error);
  if (error) {
    std::error_code ignored;
    fs::rename(old_, target_, ignored);
    check(target_, "cannot replace", error);
  }
  fs::remove_all(old_, error);
  check(old_, "cannot remove", error);
}

void StagedDirectory::remove_leftovers(const fs::path& parent) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    const bool temporary = name.size() > 1 + kTemporary.size() && name[0] == '.' && name.ends_with(kTemporary);
    const bool old = name.size() > 1 + kOld.size() && name[0] == '.' && name.ends_with(kOld);
    if ((!temporary && !old) || !entry.is_directory(error) || entry.is_symlink(error)) continue;
    if (old) {
      const std::string base = name.substr(1, name.size() - 1 - kOld.size());
      const fs::path working = parent / hidden(base, kTemporary);
      const Descriptor lock(fs::exists(working) ? try_lock(working) : -1);
      if (lock.get() >= 0 || !fs::exists(working)) bring_back(entry.path(), parent / base);
      continue;
    }
    const Descriptor lock(try_lock(entry.path()));
    if (lock.get() >= 0) fs::remove_all(entry.path(), error);
  }
}

void copy_file(const fs::path& from, const fs::path& to) {
  const Descriptor in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (in.get() < 0) fail(from, "cannot read", errno);
  Descriptor out(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (out.get() < 0) fail(to, "cannot write", errno);
  constexpr std::size_t kMost = std::size_t{1} << 30;
  std::string buffer;
  while (true) {
    ssize_t count = -1;
    if (buffer.empty()) {
      count = ::copy_file_range(in.get(), nullptr, out.get(), nullptr, kMost, 0);
      if (count == 0) break;
      if (count > 0 || errno == EINTR) continue;
      // Older kernels and some pairs of file systems cannot.
      if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) fail(to, "cannot write", errno);
      buffer.resize(std::size_t{1} << 20);
    }
    count = ::read(in.get(), buffer.data(), buffer.size());
    if (count == 0) break;
    if (count < 0 && errno != EINTR) fail(from, "cannot read", errno);
    for (ssize_t done = 0; done < count;) {
      const ssize_t written = ::write(out.get(), buffer.data() + done, static_cast<std::size_t>(count - done));
      if (written < 0 && errno != EINTR) fail(to, "cannot write", errno);
      if (written > 0) done += written;
    }
  }
  if (!out.close()) fail(to, "cannot write", errno);
}

void write_file(const fs::path& path, const std::string& text) {
  Descriptor out(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (out.get() < 0) fail(path, "cannot write", errno);
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(out.get(), text.data() + done, text.size() - done);
    if (written < 0 && errno != EINTR) fail(path, "cannot write", errno);
    if (written > 0) done += static_cast<std::size_t>(written);
  }
  if (::fsync(out.get()) != 0 || !out.close()) fail(path, "cannot write", errno);
}

}  // namespace torchfeed::datasets::converted
