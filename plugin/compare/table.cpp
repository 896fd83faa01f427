#include <torchfeed/plugin/compare/comparison.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <string>

namespace torchfeed::compare {
namespace {

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

/// Half of the distance from the slowest to the fastest repeat, as a share of the median.
double spread(const LoaderFigures& row) {
  return (row.samples_per_second_high - row.samples_per_second_low) / (2 * row.samples_per_second);
}

std::string changes(const LoaderFigures& row) {
  std::string text;
  for (const WorkerChange& change : row.worker_changes) {
    text += format(" %d>%d@%llu", change.from, change.to, static_cast<unsigned long long>(change.batch));
  }
  return text;
}

std::string line_of(const LoaderFigures& row, int width) {
  std::string line = format("%c %-*s", row.best ? '*' : ' ', width, row.name.c_str());
  if (row.repeats > 0 && row.samples_per_second > 0) {
    line += format(" %11.0f %4.0f%% %10.1f %10.1f %9.2f %9.3f %6.0f%% %8.2f %8.2f %7.0f %4td", row.samples_per_second,
                   100 * spread(row), row.us_per_batch_p50, row.us_per_batch_p99, row.first_batch_ms,
                   row.later_first_batch_ms, 100 * row.waiting_share, row.trainer_cpu_seconds, row.worker_cpu_seconds,
                   row.peak_pss_mb, row.descriptors);
  }
  if (!row.worker_changes.empty()) {
    line += format("  whole %.0f/s", row.whole_samples_per_second);  // the other paces leave the trials out
  }
  return line + changes(row) + (row.error.empty() ? "" : "  " + row.error.substr(0, row.error.find('\n'))) + '\n';
}

}  // namespace

std::string table_of(const std::vector<const LoaderFigures*>& rows) {
  std::size_t width = 0;
  for (const LoaderFigures* row : rows) {
    width = std::max(width, row->name.size());
  }
  std::string text =
      format("  %-*s %11s %5s %10s %10s %9s %9s %7s %8s %8s %7s %4s\n", static_cast<int>(width), "", "samples/s", "+-",
             "us p50", "us p99", "first ms", "later ms", "waiting", "CPU s", "worker s", "MB", "fds");
  for (const LoaderFigures* row : rows) {
    text += line_of(*row, static_cast<int>(width));
  }
  return text;
}

}  // namespace torchfeed::compare
