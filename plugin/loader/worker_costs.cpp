#include <torchfeed/plugin/loader/worker_costs.h>

#include <unistd.h>

#include <fstream>

namespace torchfeed::loader {
namespace {

// Measured on a 2-core machine with LibTorch 1.13.1; they only have to be of the right size.
constexpr double kRingSeconds = 2e-3;
constexpr double kProcessSeconds = 1.5e-3;
constexpr double kThreadSeconds = 0.2e-3;
// A fork copies the page tables.
constexpr double kForkSecondsPerByte = 22e-3 / (1 << 30);

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0;
  double resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

TunerLimits costs_of_workers(const FullDataLoaderOptions& options) {
  const int most = static_cast<int>(options.workers);
  if (options.worker_mode == WorkerMode::kThread) {
    return {most, kThreadSeconds, kThreadSeconds};
  }
  const double fork = kForkSecondsPerByte * resident_bytes();
  return {most, kRingSeconds + kProcessSeconds + 2 * fork, kProcessSeconds + fork};  // the fork server, and the worker
}

}  // namespace torchfeed::loader
