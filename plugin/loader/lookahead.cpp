#include <torchfeed/plugin/loader/lookahead.h>

#include <algorithm>
#include <atomic>

namespace torchfeed::loader {
namespace {

// As many are asked for as take a worker so long, up to so many a worker and in all.
constexpr std::int64_t kAheadNanoseconds = 400'000;
constexpr std::size_t kMostAhead = 8;
constexpr std::size_t kMostSmallJobs = 32;
constexpr std::int64_t kUsualShare = 16;

static_assert(Lookahead::kLongestLate >= std::chrono::nanoseconds(2 * kAheadNanoseconds), "or it would often be over");

}  // namespace

std::size_t most_jobs(const FullDataLoaderOptions& options, std::size_t workers) noexcept {
  const std::size_t jobs = options.jobs_for(workers);
  return options.prefetch_factor > 0 ? std::max(jobs, std::min(kMostAhead * workers, kMostSmallJobs)) : jobs;
}

void Lookahead::saw_time(std::int64_t nanoseconds) noexcept {
  // Now and then a worker loses its core for milliseconds, which tells nothing.
  const std::int64_t known = usual_nanoseconds_;
  usual_nanoseconds_ = known == 0 ? nanoseconds : known + (std::min(nanoseconds, 4 * known) - known) / kUsualShare;
}

std::size_t Lookahead::jobs(std::size_t workers) const noexcept {
  const std::size_t least = options_.jobs_for(workers);
  if (usual_nanoseconds_ <= 0) {
    return least;
  }
  const auto worth = static_cast<std::size_t>(kAheadNanoseconds / usual_nanoseconds_);
  return std::clamp(worth * workers, least, most_jobs(options_, workers));
}

std::optional<std::uint32_t> Lookahead::late_result(const SlotRing& ring, const std::deque<std::uint32_t>& in_flight,
                                                    std::size_t workers) const noexcept {
  if (options_.worker_mode == WorkerMode::kThread || ring.header().spins.load(std::memory_order_relaxed) > 0 ||
      jobs(workers) <= options_.jobs_for(workers)) {
    return std::nullopt;
  }
  const auto unfinished =
      std::find_if(in_flight.begin() + static_cast<std::ptrdiff_t>(in_flight.size() / 2), in_flight.end(),
                   [&ring](std::uint32_t index) { return !ring.has_result(index); });
  return unfinished == in_flight.end() ? std::nullopt : std::optional(*unfinished);
}

}  // namespace torchfeed::loader
