#include <torchfeed/datasets/converted/staged_directory.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

namespace torchfeed::datasets::converted {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".torchfeed-tmp";
constexpr std::string_view kOld = ".torchfeed-old";
constexpr std::string_view kLock = ".torchfeed-lock";

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
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const { return fd_; }
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

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

// A lock goes with the process, however that ends. Without one if another has it.
Descriptor try_lock(const fs::path& path) {
  while (true) {
    Descriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (fd.get() < 0) fail(path, "cannot open", errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) fail(path, "cannot lock", errno);
      return Descriptor(-1);
    }
    // Whoever had it before has removed it, and another may have made it anew.
    if (is_same(fd.get(), path)) return fd;
  }
}

// Waits. Who clears up holds it, and who begins to write takes its lock under it: so nobody takes the one for another
// conversion. No more depends on it, as not all file systems lock folders.
Descriptor lock_folder(const fs::path& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (fd.get() >= 0 && ::flock(fd.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  return fd;
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

bool is_own_directory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(fs::symlink_status(path, ignored));
}

// Of places that have something left, or are written.
std::set<std::string> names_of_leftovers(const fs::path& parent) {
  std::set<std::string> names;
  std::error_code error;
  std::error_code ignored;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    for (const auto suffix : {kTemporary, kOld, kLock}) {
      if (name.size() <= 1 + suffix.size() || name[0] != '.' || !name.ends_with(suffix)) continue;
      const bool fits = suffix == kLock ? entry->is_regular_file(ignored) : is_own_directory(entry->path());
      if (fits) names.insert(name.substr(1, name.size() - 1 - suffix.size()));
    }
  }
  return names;
}

}  // namespace

/// The right to write a place. The lock is on a file of its own, as the directories change their names and go.
class StagedDirectory::Lock {
 public:
  /// None if another has it.
  static std::unique_ptr<Lock> take(const fs::path& parent, const std::string& name) {
    const fs::path path = parent / hidden(name, kLock);
    Descriptor fd = try_lock(path);
    return fd.get() < 0 ? nullptr : std::unique_ptr<Lock>(new Lock(path, std::move(fd)));
  }
  ~Lock() { ::unlink(path_.c_str()); }  // before it is unlocked
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Lock(fs::path path, Descriptor fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  fs::path path_;
  Descriptor fd_;
};

StagedDirectory::StagedDirectory(const fs::path& parent, const std::string& name)
    : target_(parent / name), path_(parent / hidden(name, kTemporary)), old_(parent / hidden(name, kOld)) {
  std::error_code error;
  fs::create_directories(parent, error);
  check(parent, "cannot make the directory", error);
  {
    const Descriptor folder = lock_folder(parent);
    lock_ = Lock::take(parent, name);
  }
  if (!lock_) throw std::runtime_error(target_.string() + ": another conversion is writing it");
  bring_back(old_, target_);
  fs::create_directory(path_, error);
  check(path_, "cannot make the directory", error);
  if (!is_own_directory(path_)) fail(path_, "cannot write", ENOTDIR);  // a link, whose target is somebody's
  fs::directory_iterator left(path_, error);                           // by a run that was interrupted
  check(path_, "cannot read", error);
  for (const auto& entry : left) fs::remove_all(entry.path());
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(path_, ignored);
}

void StagedDirectory::commit() {
  sync_directory(path_);
  std::error_code error;
  if (fs::exists(target_)) {
    exchange();
    committed_ = true;
    sync_directory(target_.parent_path());
    // The new one is there: what stays of the old one is the next run's to remove. Whoever has its files mapped keeps
    // them.
    fs::remove_all(path_, error);
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
  fs::remove_all(old_, error);  // or the next run does
}

void StagedDirectory::remove_leftovers(const fs::path& parent) {
  const Descriptor folder = lock_folder(parent);
  for (const auto& name : names_of_leftovers(parent)) {
    try {
      const auto lock = Lock::take(parent, name);
      if (!lock) continue;
      const fs::path old = parent / hidden(name, kOld);
      const fs::path temporary = parent / hidden(name, kTemporary);
      if (is_own_directory(old)) bring_back(old, parent / name);
      if (is_own_directory(temporary)) fs::remove_all(temporary);
    } catch (const std::system_error&) {
      // Another user's, say: it is in nobody's way until its place is written, which then tells.
    }
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
