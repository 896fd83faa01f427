#include <torchfeed/plugin/compare/loader_run.h>
#include <torchfeed/plugin/compare/process_usage.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>

namespace torchfeed::compare {
namespace {

using Clock = std::chrono::steady_clock;

/// After the timed part; before the first, time passes in which workers go to sleep.
constexpr int kShortEpochs = 4;
constexpr std::size_t kReserved = std::size_t{1} << 20;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

/// What the machine has before a loader is made, so that what the loader adds can be told from it.
struct Before {
  std::set<pid_t> processes = processes_below();
  std::map<pid_t, double> threads = cpu_seconds_of_threads();
  double cpu = own_cpu_seconds();

  std::set<pid_t> new_processes() const {
    const std::set<pid_t> now = processes_below();
    std::set<pid_t> added;
    std::set_difference(now.begin(), now.end(), processes.begin(), processes.end(), std::inserter(added, added.end()));
    return added;
  }

  void read_cpu(bool workers_are_threads, LoaderRun& run) const {
    run.trainer_cpu = own_cpu_seconds() - cpu;
    for (const pid_t process : new_processes()) {
      run.worker_cpu += cpu_seconds_of(process);
    }
    if (workers_are_threads) {
      // The trainer's threads were there before. The workers' may be gone again, and theirs is what is left.
      double trainer = 0;
      for (const auto& [thread, seconds] : cpu_seconds_of_threads()) {
        const auto known = threads.find(thread);
        trainer += known != threads.end() ? seconds - known->second : 0;
      }
      run.worker_cpu = std::max(run.trainer_cpu - trainer, 0.0);
      run.trainer_cpu = trainer;
    }
  }

  double memory() const {
    double bytes = proportional_set(::getpid());
    for (const pid_t process : new_processes()) {
      bytes += proportional_set(process);
    }
    return bytes;
  }
};

/// When batches came, and how many samples there were up to each.
struct Arrivals {
  std::vector<Clock::time_point> times;
  std::vector<std::size_t> samples;

  /// Of the batches up to number `last`. As each worker makes a batch at the same time as the others, batches come
  /// `round` at a time, or cost the same again after so many: only whole rounds of them tell a pace.
  void describe(std::size_t last, std::size_t round, LoaderRun& run) const {
    std::size_t first = std::min(std::max(kFirstBatches, last / 20), last / 3);
    if (last - first >= round) {
      first += (last - first) % round;
    } else if (last >= round) {
      first = last - round;
    }
    if (last == first) {
      return;
    }
    run.samples_per_second = static_cast<double>(samples[last] - samples[first]) / seconds(times[last] - times[first]);
    std::vector<double> intervals;
    for (std::size_t i = first; i < last; ++i) {
      intervals.push_back(seconds(times[i + 1] - times[i]));
    }
    std::sort(intervals.begin(), intervals.end());
    run.p50 = intervals[intervals.size() / 2];
    run.p99 = intervals[intervals.size() * 99 / 100];
  }
};

/// Drives a loader from its first batch to the end of the last epoch.
class Driver {
 public:
  Driver(MeasuredLoader& loader, LoaderRun& run) : loader_(loader), run_(run) {}

  /// Makes the loader.
  void start() {
    const auto begin = Clock::now();
    loader_.make();
    if (!loader_.begin(MeasuredLoader::kNoLimit)) {
      throw std::runtime_error("the dataset gives no batch");
    }
    last_ = Clock::now();
    run_.first_batch = seconds(last_ - begin);
  }

  /// Epochs until the time is over.
  void run_timed(const RunPlan& plan) {
    Arrivals arrivals;
    arrivals.times.reserve(kReserved);
    arrivals.samples.reserve(kReserved);
    const auto first = last_;
    std::size_t samples = 0;
    std::size_t timed = 0;  // batches when the time was over
    double waited = 0;
    for (bool finishing = false, more = true; more;) {
      arrivals.times.push_back(last_);
      arrivals.samples.push_back(samples);
      samples += loader_.step();
      const auto asked = Clock::now();
      if (!finishing && arrivals.times.size() >= plan.least_batches && seconds(asked - first) > plan.seconds) {
        finishing = true;
        timed = arrivals.times.size() - 1;
        loader_.finish();
      }
      more = loader_.next();
      if (!more && !finishing) {
        more = begin_again(asked, MeasuredLoader::kNoLimit);
      }
      last_ = Clock::now();
      waited += seconds(last_ - asked);
    }
    run_.stats = loader_.stats();
    run_.batches = arrivals.times.size();
    run_.waiting_share = waited / seconds(last_ - first);
    arrivals.describe(timed, std::lcm(workers_of(plan), plan.period), run_);
    run_.whole_samples_per_second =
        static_cast<double>(arrivals.samples[timed]) / (run_.first_batch + seconds(arrivals.times[timed] - first));
  }

  /// As far as is known.
  std::size_t workers_of(const RunPlan& plan) const {
    return std::max<std::size_t>({plan.workers, static_cast<std::size_t>(run_.stats.workers), 1});
  }

  /// An epoch of so many batches, after each of which `look` is called.
  template <typename Look>
  void run_short(std::size_t batches, Look look) {
    const bool follows = follows_;
    follows_ = true;
    bool more = follows ? begin_again(last_, batches) : loader_.begin(batches);
    while (more) {
      loader_.step();
      look();
      last_ = Clock::now();
      more = loader_.next();
    }
  }

 private:
  /// The next epoch, after one whose end was asked for at `asked`.
  bool begin_again(Clock::time_point asked, std::size_t batches) {
    const auto begin = Clock::now();
    const bool more = loader_.begin(batches);
    const auto now = Clock::now();
    if (more) {
      run_.later_first_batches.push_back(seconds(now - begin));
      run_.turnarounds.push_back(seconds(now - asked));
    }
    return more;
  }

  MeasuredLoader& loader_;
  LoaderRun& run_;
  Clock::time_point last_;  // the batch at hand came, or the end was asked for
  bool follows_ = false;    // an epoch comes straight after another
};

}  // namespace

LoaderRun run_loader(MeasuredLoader& loader, const RunPlan& plan) {
  LoaderRun run;
  const Before before;
  const double memory_before = plan.memory ? before.memory() : 0;
  const auto descriptors_before = static_cast<std::ptrdiff_t>(open_descriptors());
  Driver driver(loader, run);
  driver.start();
  driver.run_timed(plan);
  before.read_cpu(plan.workers_are_threads, run);
  const std::size_t workers = driver.workers_of(plan);
  for (int epoch = 0; epoch < kShortEpochs; ++epoch) {
    driver.run_short(workers, [] {});
  }
  if (plan.memory) {
    driver.run_short(2 * workers + 2, [&] { run.peak_pss_mb = std::max(run.peak_pss_mb, 1e-6 * before.memory()); });
    run.added_pss_mb = run.peak_pss_mb - 1e-6 * memory_before;
    run.added_descriptors = static_cast<std::ptrdiff_t>(open_descriptors()) - descriptors_before;
  }
  return run;
}

}  // namespace torchfeed::compare
