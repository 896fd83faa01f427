/// Converts CSV files of bars to arrays that are mapped: see datasets/convert_csv.h.

#include <torchfeed/datasets/convert_csv.h>
#include <torchfeed/plugin/progress_bar.h>
#include <torchfeed/plugin/threading/machine.h>

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/program.h"
#include "convert/options.h"

namespace torchfeed::convert {
namespace {

constexpr std::uint64_t kMegabyte = 1'000'000;

/// How far all files are, told in megabytes. Any thread.
class Progress {
 public:
  Progress(std::uint64_t bytes, bool show) {
    if (show && bytes > 0) bar_.emplace((bytes + kMegabyte - 1) / kMegabyte, stderr, ProgressBar::Clock::now(), "MB");
  }

  /// So many bytes more are read.
  void add(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_ += bytes;
    tell((bytes_ + kMegabyte - 1) / kMegabyte);
  }

 private:
  void tell(std::uint64_t megabytes) {
    if (!bar_ || megabytes <= told_) return;
    bar_->add(megabytes - told_);
    told_ = megabytes;
  }

  std::mutex mutex_;
  std::optional<ProgressBar> bar_;
  std::uint64_t bytes_ = 0;
  std::uint64_t told_ = 0;
};

struct Input {
  std::string path;
  std::uint64_t bytes = 0;  // 0 if it is no plain file
};

/// What has become of a file.
struct Outcome {
  std::string path;
  std::optional<datasets::ConvertResult> result;
  std::string error;
};

std::vector<Input> find_inputs(const Options& options) {
  std::vector<Input> inputs;
  std::map<std::string, std::string> instruments;
  for (const auto& path : options.inputs) {
    const auto [other, is_new] = instruments.emplace(datasets::instrument_of(path), path);
    if (!is_new) {
      throw program::InputError(path + ": expected files of different names, got '" + other->first + "' from " +
                                other->second + " too");
    }
    std::error_code error;
    const auto bytes = std::filesystem::is_regular_file(path, error) ? std::filesystem::file_size(path, error) : 0;
    inputs.push_back({path, error ? 0 : bytes});
  }
  return inputs;
}

int resolve_workers(std::int64_t workers) {
  if (workers >= 0) return static_cast<int>(std::max<std::int64_t>(workers, 1));
  return std::max(1, threading::plan_threads(threading::read_machine()).preprocessing);
}

Outcome convert(const Input& input, int threads, const Options& options, Progress& progress) {
  Outcome outcome{input.path, std::nullopt, ""};
  auto convert = options.convert;
  convert.csv.threads = threads;
  std::uint64_t told = 0;
  convert.progress = [&](std::uint64_t bytes) { progress.add(bytes - std::exchange(told, bytes)); };
  try {
    outcome.result = datasets::convert_csv(input.path, options.folder, convert);
  } catch (const std::exception& error) {
    outcome.error = program::one_line(error);
  }
  if (told < input.bytes) progress.add(input.bytes - told);
  return outcome;
}

/// Files that may be converted at once without running out of descriptors.
std::size_t most_at_once() {
  constexpr rlim_t kOthers = 16;
  constexpr rlim_t kOfEach = 8;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
  return limit.rlim_cur < kOthers + kOfEach ? 1 : static_cast<std::size_t>((limit.rlim_cur - kOthers) / kOfEach);
}

/// One worker a file, the first files first. Not by parallel_map, with which comes LibTorch: to load that takes as long
/// as to convert 200 MB.
std::vector<Outcome> convert_side_by_side(const std::vector<Input>& inputs, int workers, const Options& options,
                                          Progress& progress) {
  std::vector<Outcome> outcomes(inputs.size());
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr fault;  // of no file: memory is short
  const auto work = [&] {
    try {
      for (std::size_t i; (i = next.fetch_add(1)) < inputs.size();) {
        outcomes[i] = convert(inputs[i], 1, options, progress);
      }
    } catch (...) {
      next = inputs.size();
      const std::lock_guard<std::mutex> lock(mutex);
      fault = std::current_exception();
    }
  };
  const std::size_t most = std::min({inputs.size(), static_cast<std::size_t>(workers), most_at_once()});
  std::vector<std::jthread> threads;
  try {
    while (threads.size() + 1 < most) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // As many as the system grants: this one works anyway.
  }
  work();
  threads.clear();
  if (fault) std::rethrow_exception(fault);
  return outcomes;
}

/// Files with more than a worker's share of all bytes are converted one after the other by all workers, the others side
/// by side, the largest first, by a worker each.
std::vector<Outcome> convert_all(const std::vector<Input>& inputs, int workers, const Options& options) {
  std::uint64_t all_bytes = 0;
  for (const auto& input : inputs) all_bytes += input.bytes;
  Progress progress(all_bytes, !options.quiet);
  std::vector<Outcome> outcomes;
  std::vector<Input> small;
  for (const auto& input : inputs) {
    if (inputs.size() == 1 || input.bytes > all_bytes / static_cast<std::uint64_t>(workers)) {
      outcomes.push_back(convert(input, workers, options, progress));
    } else {
      small.push_back(input);
    }
  }
  std::sort(small.begin(), small.end(), [](const Input& a, const Input& b) { return a.bytes > b.bytes; });
  auto others = convert_side_by_side(small, workers, options, progress);
  outcomes.insert(outcomes.end(), std::make_move_iterator(others.begin()), std::make_move_iterator(others.end()));
  return outcomes;
}

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

void print(const datasets::ConvertResult& result) {
  std::printf("%s: %" PRId64 " rows", result.directory.c_str(), result.rows);
  if (result.new_rows != result.rows) std::printf(", %" PRId64 " of them new,", result.new_rows);
  std::printf(" of %zu columns from %" PRIu64 " bars: %s\n", result.columns.size(), result.bars,
              joined(result.columns).c_str());
  if (result.dropped_rows > 0) std::printf("  %" PRIu64 " rows with missing values left out\n", result.dropped_rows);
  if (result.filled_values > 0) std::printf("  %" PRIu64 " missing values filled\n", result.filled_values);
  if (result.late_bars > 0) {
    std::printf("  %" PRIu64
                " bars that were not there, but are before the last one, left out: convert anew to have them\n",
                result.late_bars);
  }
  if (!result.skipped_columns.empty()) std::printf("  passed over: %s\n", joined(result.skipped_columns).c_str());
}

// Each block of a file takes the memory of one before. By default much of it would go back to the system in between,
// and come anew page by page, for which threads wait for each other.
void keep_freed_memory() {
#ifdef M_TRIM_THRESHOLD
  constexpr int kMegabytes = 1 << 20;
  ::mallopt(M_MMAP_THRESHOLD, 32 * kMegabytes);
  ::mallopt(M_TRIM_THRESHOLD, 64 * kMegabytes);
#endif
}

int run(int argc, char** argv) {
  const auto options = parse_options(argc, argv);
  if (!options) return 0;
  keep_freed_memory();
  const auto inputs = find_inputs(*options);
  program::make_folder(options->folder);
  datasets::remove_interrupted_conversions(options->folder);
  auto outcomes = convert_all(inputs, resolve_workers(options->workers), *options);
  std::sort(outcomes.begin(), outcomes.end(), [](const Outcome& a, const Outcome& b) { return a.path < b.path; });
  std::size_t failed = 0;
  for (const auto& outcome : outcomes) {
    if (outcome.result) {
      print(*outcome.result);
    } else {
      program::report("convert", outcome.error);
      ++failed;
    }
  }
  if (failed > 0 && outcomes.size() > 1) {
    program::report(
        "convert", std::to_string(failed) + " of " + std::to_string(outcomes.size()) + " files could not be converted");
  }
  return failed > 0 ? program::kExitError : 0;
}

}  // namespace
}  // namespace torchfeed::convert

int main(int argc, char** argv) {
  return torchfeed::program::run("convert", [&] { return torchfeed::convert::run(argc, argv); });
}
