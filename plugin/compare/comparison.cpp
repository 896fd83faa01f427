#include <torchfeed/plugin/compare/comparison.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <numeric>
#include <optional>
#include <random>

namespace torchfeed::compare {
namespace {

/// Within so much of the fastest, fewer workers are better.
constexpr double kAsFast = 0.98;

struct Spread {
  double median = 0;
  double low = 0;
  double high = 0;
};

Spread spread_of(std::vector<double> values) {
  if (values.empty()) {
    return {};
  }
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

/// `value` of all runs.
template <typename Value>
Spread spread_over(const std::vector<LoaderRun>& runs, Value value) {
  std::vector<double> values;
  for (const LoaderRun& run : runs) {
    values.push_back(static_cast<double>(std::invoke(value, run)));
  }
  return spread_of(std::move(values));
}

/// The median of what all runs have several of.
double median_of_all(const std::vector<LoaderRun>& runs, std::vector<double> LoaderRun::*values) {
  std::vector<double> all;
  for (const LoaderRun& run : runs) {
    all.insert(all.end(), (run.*values).begin(), (run.*values).end());
  }
  return spread_of(std::move(all)).median;
}

void fill(LoaderFigures& figures, const std::vector<LoaderRun>& runs) {
  figures.repeats = static_cast<int>(runs.size());
  if (runs.empty()) {
    return;
  }
  const auto median = [&](auto value) { return spread_over(runs, value).median; };
  figures.batches = static_cast<std::size_t>(median(&LoaderRun::batches));
  const Spread pace = spread_over(runs, [](const LoaderRun& run) { return run.samples_per_second; });
  figures.samples_per_second = pace.median;
  figures.samples_per_second_low = pace.low;
  figures.samples_per_second_high = pace.high;
  figures.whole_samples_per_second = median(&LoaderRun::whole_samples_per_second);
  const Spread first = spread_over(runs, [](const LoaderRun& run) { return 1e3 * run.first_batch; });
  figures.first_batch_ms = first.median;
  figures.first_batch_ms_low = first.low;
  figures.first_batch_ms_high = first.high;
  figures.us_per_batch_p50 = 1e6 * median([](const LoaderRun& run) { return run.p50; });
  figures.us_per_batch_p99 = 1e6 * median([](const LoaderRun& run) { return run.p99; });
  figures.later_first_batch_ms = 1e3 * median_of_all(runs, &LoaderRun::later_first_batches);
  figures.turnaround_ms = 1e3 * median_of_all(runs, &LoaderRun::turnarounds);
  figures.waiting_share = median([](const LoaderRun& run) { return run.waiting_share; });
  figures.trainer_cpu_seconds = median([](const LoaderRun& run) { return run.trainer_cpu; });
  figures.worker_cpu_seconds = median([](const LoaderRun& run) { return run.worker_cpu; });
  const LoaderRun& last = runs.back();  // it alone looks at memory
  figures.peak_pss_mb = last.peak_pss_mb;
  figures.added_pss_mb = last.added_pss_mb;
  figures.descriptors = last.added_descriptors;
  figures.workers = last.stats.workers;
  figures.copied_batches = last.stats.copied_batches;
  figures.worker_changes = last.stats.worker_changes;
}

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    return known.what()[0] != '\0' ? known.what() : "an exception without a message";
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

void mark_best(std::vector<LoaderFigures>& rows, const std::vector<Candidate>& candidates) {
  const auto pace = [&](std::size_t i) {
    return candidates[i].competes && rows[i].error.empty() ? rows[i].samples_per_second : 0;
  };
  double fastest = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    fastest = std::max(fastest, pace(i));
  }
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (pace(i) > 0 && pace(i) >= kAsFast * fastest && (!best || candidates[i].effort < candidates[*best].effort)) {
      best = i;
    }
  }
  if (best) {
    rows[*best].best = true;
  }
}

}  // namespace

std::vector<LoaderFigures> compare(const std::vector<Candidate>& candidates, int repeats,
                                   const std::function<void()>& told) {
  const std::size_t count = candidates.size();
  std::vector<LoaderFigures> rows(count);
  std::vector<std::vector<LoaderRun>> runs(count);
  // Caches and malloc are as the one before has left them: nobody always follows the same other.
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::minstd_rand random;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    if (repeat > 0) {
      std::shuffle(order.begin(), order.end(), random);
    }
    for (const std::size_t i : order) {
      if (rows[i].error.empty()) {
        try {
          RunPlan plan = candidates[i].plan;
          plan.memory = repeat + 1 == repeats;
          runs[i].push_back(run_loader(*candidates[i].make(), plan));
        } catch (...) {
          rows[i].error = message_of(std::current_exception());
        }
      }
      if (told) {
        told();
      }
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    rows[i].name = candidates[i].name;
    fill(rows[i], runs[i]);
  }
  mark_best(rows, candidates);
  return rows;
}

}  // namespace torchfeed::compare
