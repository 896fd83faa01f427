#include <torchfeed/plugin/loader/segment.h>

#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace torchfeed::loader {
namespace {

namespace ipc = boost::interprocess;

// A signal makes the kernel undo the whole of an unfinished fallocate, so that a timer could keep a large one from
// ever ending. In pieces it gets on.
constexpr std::size_t kCommitPiece = std::size_t{16} << 20;

[[noreturn]] void throw_system_error(int error, const char* what) {
  throw std::system_error(error, std::generic_category(), std::string("torchfeed: shared memory: ") + what);
}

}  // namespace

struct Segment::Mapping {
  ipc::mapped_region region;
};

Segment::Segment(std::size_t bytes) : descriptor_(::memfd_create("torchfeed", MFD_CLOEXEC)), size_(bytes) {
  if (descriptor_.get() < 0) {
    throw_system_error(errno, "memfd_create");
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) {
    throw_system_error(EFBIG, "RLIMIT_FSIZE (ulimit -f)");  // ftruncate would raise SIGXFSZ, a death without a word
  }
  if (::ftruncate(descriptor_.get(), static_cast<off_t>(bytes)) != 0) {
    throw_system_error(errno, "ftruncate");
  }
  try {
    const auto path = "/proc/self/fd/" + std::to_string(descriptor_.get());
    const ipc::file_mapping file(path.c_str(), ipc::read_write);
    mapping_ = std::make_unique<Mapping>(Mapping{ipc::mapped_region(file, ipc::read_write, 0, bytes)});
  } catch (const ipc::interprocess_exception& error) {
    throw_system_error(error.get_native_error(), "mmap");
  }
  data_ = static_cast<std::byte*>(mapping_->region.get_address());
  // The kernel would take memory for every page of it while writing a core dump.
  ::madvise(data_, size_, MADV_DONTDUMP);
}

Segment::~Segment() {
  if (owner_depth_ == fork_depth()) {
    release(0, size_);
  }
}

int Segment::commit(std::size_t offset, std::size_t bytes) noexcept {
  const std::size_t end = offset + bytes;
  while (offset < end) {
    const std::size_t piece = std::min(end - offset, kCommitPiece);
    const int error = ::posix_fallocate(descriptor_.get(), static_cast<off_t>(offset), static_cast<off_t>(piece));
    if (error == EINTR) {
      continue;
    }
    if (error != 0) {
      return error;
    }
    offset += piece;
  }
  return 0;
}

void Segment::release(std::size_t offset, std::size_t bytes) noexcept {
  ::fallocate(descriptor_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
              static_cast<off_t>(bytes));
}

}  // namespace torchfeed::loader
