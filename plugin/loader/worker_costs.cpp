#include <torchfeed/plugin/loader/worker_costs.h>
#include <torchfeed/plugin/threading/free_memory.h>

#include <unistd.h>

#include <fstream>

namespace torchfeed::loader {
namespace {

// Measured on a 2-core machine with LibTorch 1.13.1; they only have to be of the right size.
constexpr double kRingSeconds = 2e-3;
constexpr double kProcessSeconds = 1.5e-3;
constexpr double kThreadSeconds = 0.2e-3;
// A fork copies the page tables of memory that is not a file's; and pages that the trainer writes to after are copied
// once (a second a GB), of which a part is counted.
constexpr double kForkSecondsPerByte = 22e-3 / (1 << 30);
constexpr double kCopySecondsPerByte = 100e-3 / (1 << 30);

double anonymous_bytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0;
  double resident = 0;
  double shared = 0;
  file >> total >> resident >> shared;
  return (resident - shared) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

TunerLimits costs_of_workers(const FullDataLoaderOptions& options) {
  TunerLimits limits;
  limits.most_workers = static_cast<int>(options.workers);
  limits.jobs_a_worker = options.prefetch_factor;
  limits.jobs = options.prefetch_factor > 0 ? 0 : options.max_jobs;
  if (options.worker_mode == WorkerMode::kThread) {
    limits.start_seconds = limits.worker_seconds = kThreadSeconds;
    return limits;
  }
  const double bytes = anonymous_bytes();
  const auto room = threading::read_free_memory();
  if (room && bytes > static_cast<double>(room->bytes)) {
    limits.most_workers = 0;  // workers keep pages that the trainer writes anew
  }
  const double fork = kForkSecondsPerByte * bytes;
  limits.start_seconds = kRingSeconds + kProcessSeconds + 2 * fork + kCopySecondsPerByte * bytes;
  limits.worker_seconds = kProcessSeconds + fork;
  return limits;
}

}  // namespace torchfeed::loader
