/// Kills workers and trainers of loaders at random moments for a time and checks that it costs nothing: every batch
/// arrives once, as it would have without, and nothing is left. Exits with 1 if not.
#include <torch/torch.h>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <exception>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "chaos/chaos_round.h"

namespace torchfeed::chaos {
namespace {

using Clock = std::chrono::steady_clock;

// The share of the time that goes to killing trainers.
constexpr double kTrainersShare = 0.2;

struct Options {
  double seconds = 60;
  std::vector<std::int64_t> workers{1, 2, 4, 8};
  std::uint64_t seed = 1;
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void print_tally(const Tally& tally) {
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "kills %llu  restarts %llu  batches %llu  epochs %llu  rounds %llu  trainers %llu  given up %llu  lost %llu  "
      "doubled %llu  wrong %llu  left %llu",
      number(tally.kills), number(tally.restarts), number(tally.batches), number(tally.epochs), number(tally.rounds),
      number(tally.trainers), number(tally.given_up), number(tally.lost), number(tally.doubled), number(tally.wrong),
      number(tally.left));
  std::fflush(stdout);
}

/// A line that is written again about once a second, where a person looks on.
class Progress {
 public:
  void show(const Tally& tally) {
    if (terminal_ && seconds_since(last_) >= 1) {
      last_ = Clock::now();
      std::printf("\r");
      print_tally(tally);
    }
  }
  void end() const {
    if (terminal_) {
      std::printf("\r");
    }
  }

 private:
  const bool terminal_ = ::isatty(STDOUT_FILENO) == 1;
  Clock::time_point last_ = Clock::now();
};

Tally run_chaos(const Options& options) {
  const auto begin = Clock::now();
  std::mt19937_64 random(options.seed);
  Board board;
  Tally tally;
  Progress progress;
  double trainers_seconds = 0;
  const auto in_time = [&] {
    progress.show(tally);
    return seconds_since(begin) < options.seconds;
  };
  do {
    run_round(random_round(random, options.workers), board, tally, in_time);
    while (in_time() && trainers_seconds < kTrainersShare * seconds_since(begin)) {
      const auto trainer_begin = Clock::now();
      kill_a_trainer(random_round(random, options.workers), board, random, tally);
      trainers_seconds += seconds_since(trainer_begin);
    }
  } while (in_time());
  progress.end();
  return tally;
}

int run(const Options& options) {
  const rlimit no_cores{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_cores);
  // What a killed trainer leaves becomes this process's child, and so can be seen.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  // Trainers are forked from here: a fork has no threads but one, and so must need none.
  torch::set_num_threads(1);
  const Tally tally = run_chaos(options);
  print_tally(tally);
  std::printf("\n");
  std::fflush(stdout);
  for (const auto& fault : tally.faults) {
    std::fprintf(stderr, "loader_chaos: %s\n", fault.c_str());
  }
  return tally.clean() ? 0 : 1;
}

}  // namespace
}  // namespace torchfeed::chaos

int main(int argc, char** argv) {
  torchfeed::chaos::Options options;
  CLI::App app("Kills a loader's workers, and trainers, at random moments and checks that it costs nothing.");
  app.add_option("--seconds", options.seconds, "How long")->check(CLI::Range(0.0, 1e6))->capture_default_str();
  app.add_option("--workers", options.workers, "Numbers of workers to choose from, as in 1,2,4,8")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of all settings and moments but the machine's own")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return torchfeed::chaos::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "loader_chaos: %s\n", error.what());
    return 2;
  }
}
