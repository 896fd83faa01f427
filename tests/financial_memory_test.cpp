// FinancialDataset of a converted directory that is larger than the memory there is for it.

#include <torchfeed/datasets/financial_dataset.h>

#include <gtest/gtest.h>

#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "support/forked_child.h"
#include "support/npy_file.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"

namespace torchfeed::datasets {
namespace {

namespace fs = std::filesystem;
using testing::npy_dictionary;
using testing::npy_file;
using testing::npy_header;
using testing::TempDir;

constexpr std::int64_t kRows = 400'000;
constexpr std::size_t kColumns = 256;
constexpr std::size_t kRowBytes = kColumns * sizeof(float);
constexpr std::uint64_t kMegabyte = std::uint64_t{1} << 20;

bool has_swap() {
  std::ifstream file("/proc/swaps");
  std::string head, first;
  std::getline(file, head);
  return static_cast<bool>(std::getline(file, first));
}

bool is_in_memory(const std::string& path) {
  constexpr long kTmpfs = 0x01021994;
  struct statfs system {};
  return ::statfs(path.c_str(), &system) == 0 && system.f_type == kTmpfs;
}

/// A memory cgroup with a limit, version 1 or 2, as far as this process may make one. Nothing is left of it.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::uint64_t bytes) {
    for (const auto& [parent, file] :
         {std::pair{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, std::pair{"/sys/fs/cgroup", "memory.max"}}) {
      // With swap, more than the limit is no more than slow.
      const bool version_1 = std::string_view(file) == "memory.limit_in_bytes";
      const fs::path folder = fs::path(parent) / ("torchfeed-test-" + std::to_string(::getpid()));
      std::error_code error;
      if (!fs::create_directory(folder, error)) continue;
      folder_ = folder;
      const bool limited = write(file, std::to_string(bytes));
      const bool no_swap =
          version_1 ? write("memory.memsw.limit_in_bytes", std::to_string(bytes)) : write("memory.swap.max", "0");
      if (limited && (no_swap || !has_swap())) return;
      fs::remove(folder_, error);
      folder_.clear();
    }
  }
  ~MemoryLimit() {
    std::error_code ignored;
    if (*this) fs::remove(folder_, ignored);  // no process is in it any more
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

  explicit operator bool() const { return !folder_.empty(); }
  /// The calling process keeps to it from now on. What it had before is not counted.
  bool join() const { return write("cgroup.procs", std::to_string(::getpid())); }

 private:
  bool write(const char* file, const std::string& text) const {
    const fs::path path = folder_ / file;
    if (!fs::exists(path)) return false;
    std::ofstream out(path);
    out << text << std::flush;
    return out.good();
  }

  fs::path folder_;
};

/// 400 MB of rows, zeros that take no place on the disk.
std::string write_directory(const TempDir& dir) {
  std::string columns = R"("open", "high", "low", "close", "volume", "log_return", "log_range")";
  for (std::size_t c = 7; c < kColumns; ++c) columns += ", \"c" + std::to_string(c) + '"';
  dir.write("meta.json",
            R"({"format": "torchfeed.rows", "version": 1, "instrument": "x", "dtype": "float32", "rows": )" +
                std::to_string(kRows) + R"(, "statistics_block": 65536, "columns": [)" + columns + "]}");
  std::vector<std::int64_t> times;
  for (std::int64_t row = 0; row < kRows; ++row) times.push_back(row * 60'000'000'000);
  dir.write("times.npy", npy_file("<i8", '(' + std::to_string(kRows) + ",)", times));
  constexpr std::size_t kBlocks = (kRows + 65535) / 65536;
  const std::vector<double> statistics(kBlocks * kColumns * 2, 1.0);
  dir.write("statistics.npy",
            npy_file("<f8", '(' + std::to_string(kBlocks) + ", " + std::to_string(kColumns) + ", 2)", statistics));
  const auto header =
      npy_header(npy_dictionary("<f4", '(' + std::to_string(kRows) + ", " + std::to_string(kColumns) + ')'));
  fs::resize_file(dir.write("rows.npy", header), header.size() + kRows * kRowBytes);
  return fs::path(dir.file("rows.npy")).parent_path().string();
}

/// Reads windows from all over the directory, every page of rows.npy among them.
std::string read_all(const std::string& path, bool lazy, const MemoryLimit& limit) {
  if (!limit.join()) return "cannot join the cgroup";
  FinancialOptions options{.sequence_length = 50, .features = {"log_return", "log_range"}, .scaling = Scaling::kNone};
  options.lazy_loading = lazy;
  FinancialDataset dataset = FinancialDataset::open(path, options);
  std::size_t windows = 0;
  constexpr std::size_t kBatch = 32;
  // In an order as in training: far apart.
  const std::size_t samples = *dataset.size();
  const std::size_t count = samples / 50;
  for (std::size_t i = 0; i < count; i += kBatch) {
    std::vector<std::size_t> indices;
    for (std::size_t k = i; k < std::min(i + kBatch, count); ++k) indices.push_back(k * 7919 % count * 50);
    windows += static_cast<std::size_t>(dataset.get_batch(indices).data.size(0));
  }
  return windows == count ? "all read" : "read " + std::to_string(windows);
}

TEST(FinancialMemoryTest, LazyLoadingReadsMoreThanThereIsMemoryFor) {
  if (testing::kSanitized) GTEST_SKIP() << "sanitizers take memory of their own";
  const TempDir dir;
  if (is_in_memory(dir.path())) GTEST_SKIP() << "expected a temporary folder on a disk, got one in memory";
  const auto path = write_directory(dir);
  const MemoryLimit limit(64 * kMegabyte);
  if (!limit) GTEST_SKIP() << "expected a memory cgroup that this process may make, got none";
  const auto said = testing::said_in_a_child([&] { return read_all(path, /*lazy=*/true, limit); });
  EXPECT_EQ(said, "all read");
  // The limit is one.
  EXPECT_EQ(testing::said_in_a_child([&] {
              if (!limit.join()) return std::string("cannot join the cgroup");
              return std::to_string(std::string(kRows * kRowBytes, 'x').size());
            }),
            "killed by signal 9");
}

}  // namespace
}  // namespace torchfeed::datasets
