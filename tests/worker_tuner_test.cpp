// num_workers(kAuto)'s decisions, on made-up machines with a made-up clock.
#include <torchfeed/plugin/loader/worker_tuner.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace torchfeed::loader {
namespace {

/// A training loop: seconds a batch to make and to train, on some cores.
struct Workload {
  std::string name;
  double produce = 0;
  double step = 0;
  bool computing = true;  // making a batch; else it waits
  double noise = 0.03;
  double tail = 0;      // seconds more that one batch in five takes to make, on average a fifth of that
  double crowding = 0;  // seconds more that a batch takes for each worker but the first
  double spells = 0;    // how much longer a batch of workers takes in the first 25 ms of each 0.1 s
  double phase = 0;     // seconds by which those come later
  double warming = 0;   // how much longer the first workers take for their first batch, which halves with each twenty
};

struct Machine {
  int cores = 2;
  int most_workers = 2;
  double start_seconds = 0.005;
  double worker_seconds = 0.0015;
  double ask_seconds = 0.002;  // of the loop, to find out how many workers there may be
};

constexpr double kHandOver = 1.5e-6;

/// Seconds a batch with a fixed number of workers, in the long run.
double pace(const Machine& machine, const Workload& load, int workers) {
  const double produce = load.produce + load.tail / 5;
  if (workers == 0) {
    return produce + load.step;
  }
  const double computing = load.step + (load.computing ? produce : 0);
  return std::max({load.step + kHandOver, produce / workers, computing / machine.cores}) +
         load.crowding * (workers - 1);
}

double best_pace(const Machine& machine, const Workload& load) {
  double best = pace(machine, load, 0);
  for (int workers = 1; workers <= machine.most_workers; ++workers) {
    best = std::min(best, pace(machine, load, workers));
  }
  return best;
}

struct Change {
  std::uint64_t batch;
  int workers;
};

/// A loop that does what the tuner says.
class Loop {
 public:
  explicit Loop(const Machine& machine)
      : machine_(machine), tuner_([this] {
          ++asked_;
          now_.seconds += machine_.ask_seconds;
          return TunerLimits{machine_.most_workers, machine_.start_seconds, machine_.worker_seconds};
        }) {}

  /// Runs so many batches; returns the seconds that they took.
  double run(const Workload& load, std::uint64_t batches) {
    const double begin = now_.seconds;
    std::uniform_real_distribution<double> noise(-load.noise, load.noise);
    for (std::uint64_t i = 0; i < batches; ++i) {
      if (now_.batches >= tuner_.next_look()) {
        ++looks_;
        obey(tuner_.look(now_));
      }
      const double tail = load.tail > 0 && now_.batches % 5 == 4 ? load.tail : 0;
      Workload now = load;
      now.tail = 0;
      now.produce += workers_ == 0 ? tail : load.tail / 5;
      const double cold = workers_ > 0 ? load.warming * std::exp2(-static_cast<double>(worked_++) / 20) : 0;
      const bool in_spell = workers_ > 0 && std::fmod(now_.seconds + 1 - load.phase, 0.1) < 0.025;
      const double spell = in_spell ? load.spells : 0;
      const double seconds = pace(machine_, now, workers_) * (1 + cold) * (1 + spell) * (1 + noise(random_));
      const double crowd =
          workers_ == 0 || !load.computing
              ? 1
              : std::max(1.0,
                         (std::min<double>(workers_, now.produce / seconds) + load.step / seconds) / machine_.cores);
      now_.seconds += seconds;
      now_.step_seconds += std::min(load.step * crowd, seconds);
      now_.produce_seconds += now.produce * crowd;
      ++now_.batches;
    }
    return now_.seconds - begin;
  }

  int workers() const { return workers_; }
  const std::vector<Change>& changes() const { return changes_; }
  int asked() const { return asked_; }
  std::uint64_t looks() const { return looks_; }
  double paid() const { return paid_; }

 private:
  void obey(int workers) {
    if (workers == workers_) {
      return;
    }
    EXPECT_NE(tuner_.reason(), "");
    EXPECT_LE(workers, machine_.most_workers);
    EXPECT_GE(workers, 0);
    if (workers > workers_) {
      const double cost = (started_ ? 0 : machine_.start_seconds) + machine_.worker_seconds * (workers - workers_);
      now_.seconds += cost;
      paid_ += cost;
      started_ = true;
    }
    workers_ = workers;
    changes_.push_back({now_.batches, workers});
  }

  Machine machine_;
  WorkerTuner tuner_;
  TunerReading now_;
  std::mt19937 random_{7};
  int workers_ = 0;
  bool started_ = false;
  std::uint64_t worked_ = 0;  // batches that workers have made
  std::vector<Change> changes_;
  int asked_ = 0;
  std::uint64_t looks_ = 0;
  double paid_ = 0;
};

std::vector<Workload> workloads() {
  std::vector<Workload> loads{
      {.name = "windows", .produce = 5e-6, .step = 0.3e-6},
      {.name = "windows, a sample at a time", .produce = 86e-6, .step = 0.3e-6},
      {.name = "images", .produce = 6.5e-3, .step = 1e-6},
      {.name = "burn", .produce = 32e-3, .step = 1e-6},
      {.name = "wait", .produce = 64e-3, .step = 1e-6, .computing = false},
      {.name = "tail", .produce = 16e-3, .step = 1e-6, .computing = false, .tail = 60e-3},
  };
  const std::size_t bare = loads.size();
  for (std::size_t i = 0; i < bare; ++i) {
    Workload slow = loads[i];
    slow.name += ", 5 ms steps";
    slow.step = 5e-3;
    loads.push_back(slow);
  }
  return loads;
}

Machine machine_for(const Workload& load) {
  Machine machine;
  machine.most_workers = load.computing ? machine.cores : 8;
  return machine;
}

TEST(WorkerTuner, GoesAsFastAsTheBestNumberOfWorkersSoonAfterTheBeginning) {
  for (const Workload& load : workloads()) {
    SCOPED_TRACE(load.name);
    const Machine machine = machine_for(load);
    Loop loop(machine);
    const double total = std::max(10.0, 1000 * best_pace(machine, load));
    const auto batches = static_cast<std::uint64_t>(total / best_pace(machine, load));
    const std::uint64_t first = std::max<std::uint64_t>(50, batches / 20);
    loop.run(load, first);
    const double seconds = loop.run(load, batches - first);
    const double fixed = best_pace(machine, load) * static_cast<double>(batches - first);
    EXPECT_LT(seconds, fixed / 0.95) << loop.workers() << " workers";
  }
}

TEST(WorkerTuner, IsNeverMuchSlowerThanNoWorkers) {
  for (const Workload& load : workloads()) {
    SCOPED_TRACE(load.name);
    for (const double seconds : {0.5, 3.0, 30.0}) {
      const Machine machine = machine_for(load);
      Loop loop(machine);
      const auto batches = static_cast<std::uint64_t>(std::max(20.0, seconds / pace(machine, load, 0)));
      const double without = pace(machine, load, 0) * static_cast<double>(batches);
      EXPECT_LT(loop.run(load, batches), without / 0.98 + machine.ask_seconds) << seconds << " s";
    }
  }
}

TEST(WorkerTuner, LosesAtMostWhatWorkersCostWhereTheLoopEndsSoon) {
  const Workload load{.name = "", .produce = 2e-3, .step = 2e-3};
  for (std::uint64_t batches = 1; batches < 60; ++batches) {
    Loop loop(Machine{});
    const double seconds = loop.run(load, batches);
    const double without = pace(Machine{}, load, 0) * static_cast<double>(batches);
    EXPECT_LT(seconds, without * 1.05 + loop.paid() + Machine{}.ask_seconds) << batches << " batches";
    if (loop.paid() > 0) {
      EXPECT_GT(without / 2, 0.8 * loop.paid()) << "the gain so far was worth it, after " << batches << " batches";
    }
  }
}

TEST(WorkerTuner, StartsNoneWhereNothingIsToBeGained) {
  Loop trains(Machine{});
  trains.run({.name = "", .produce = 1e-6, .step = 1e-3}, 20'000);
  EXPECT_TRUE(trains.changes().empty());
  EXPECT_EQ(trains.asked(), 0) << "not even for the machine's limits";

  Loop lonely(Machine{.cores = 1, .most_workers = 0});
  lonely.run({.name = "", .produce = 1e-3, .step = 1e-3}, 5000);
  EXPECT_TRUE(lonely.changes().empty());
  EXPECT_EQ(lonely.asked(), 1);
}

TEST(WorkerTuner, LooksSeldom) {
  Loop loop(Machine{});
  loop.run({.name = "windows", .produce = 5e-6, .step = 0.3e-6}, 2'000'000);
  EXPECT_LT(loop.looks(), 1000U);
}

TEST(WorkerTuner, StaysWhereItIsInSpiteOfNoise) {
  for (Workload load : workloads()) {
    SCOPED_TRACE(load.name);
    load.noise = 0.15;
    Loop loop(machine_for(load));
    loop.run(load, 1000);
    const std::size_t before = loop.changes().size();
    loop.run(load, 20'000);
    EXPECT_LE(loop.changes().size(), before + 1);
    EXPECT_LE(loop.changes().size(), 7U);
  }
}

TEST(WorkerTuner, AddsWorkersWhenBatchesBecomeDear) {
  const Machine machine{.cores = 8, .most_workers = 8};
  Loop loop(machine);
  loop.run({.name = "", .produce = 4e-3, .step = 5e-3}, 500);
  EXPECT_EQ(loop.workers(), 1);
  const Workload dear{.name = "", .produce = 24e-3, .step = 5e-3};
  loop.run(dear, 500);
  EXPECT_GE(loop.workers(), 5);
  EXPECT_LT(loop.run(dear, 1000), 1000 * best_pace(machine, dear) / 0.95);
}

TEST(WorkerTuner, TakesWorkersAwayWhenBatchesBecomeCheap) {
  const Machine machine{.cores = 8, .most_workers = 8};
  Loop loop(machine);
  loop.run({.name = "", .produce = 24e-3, .step = 5e-3}, 500);
  EXPECT_GE(loop.workers(), 5);
  const Workload cheap{.name = "", .produce = 2e-3, .step = 5e-3};
  loop.run(cheap, 2000);
  EXPECT_LE(loop.workers(), 1);
  EXPECT_LT(loop.run(cheap, 1000), 1000 * best_pace(machine, cheap) / 0.95);
}

TEST(WorkerTuner, GoesBackToNoneWhereWorkersOnlyTakeTheTrainersCores) {
  // The step has all cores, and is slower with a worker beside it than with batches made in between.
  const Machine machine{.cores = 1, .most_workers = 2};
  const Workload load{.name = "", .produce = 1e-3, .step = 5e-3};
  Loop loop(machine);
  const double seconds = loop.run(load, 2000);
  EXPECT_EQ(loop.workers(), 0);
  EXPECT_LT(seconds, 2000 * pace(machine, load, 0) / 0.98);
}

TEST(WorkerTuner, TriesFewerWorkersWhereTheFirstNumberIsWorseThanNone) {
  const Workload load{.name = "crowded", .produce = 12e-6, .step = 3e-6, .crowding = 10e-6};
  const Machine machine;
  ASSERT_LT(pace(machine, load, 1), pace(machine, load, 0));
  ASSERT_GT(pace(machine, load, 2), pace(machine, load, 0));
  Loop loop(machine);
  loop.run(load, 100'000);
  EXPECT_EQ(loop.workers(), 1);
  EXPECT_THAT(loop.changes(), ::testing::SizeIs(::testing::Le(2U)));  // 2, and 1
}

TEST(WorkerTuner, WaitsUntilTheFirstWorkersAreAsFastAsTheyGet) {
  const Workload load{.name = "", .produce = 1.6e-3, .step = 1e-6, .warming = 4};
  Loop loop(Machine{});
  loop.run(load, 200);
  EXPECT_EQ(loop.workers(), 2);
  EXPECT_THAT(loop.changes(), ::testing::SizeIs(1));
}

TEST(WorkerTuner, DoesNotWaitForLongWhereTheFirstWorkersStaySlowerThanNone) {
  const Machine machine{.cores = 1, .most_workers = 2};
  const Workload load{.name = "", .produce = 1.6e-3, .step = 1.6e-3, .crowding = 2e-3, .warming = 4};
  Loop loop(machine);
  loop.run(load, 200);
  EXPECT_EQ(loop.workers(), 0);
}

TEST(WorkerTuner, KeepsAWorkerThatGainsLittleWhateverElseRunsForAMoment) {
  const Workload load{.name = "", .produce = 10e-6, .step = 1.5e-6, .crowding = 10e-6, .spells = 0.2};
  ASSERT_LT(1.05 * pace(Machine{}, load, 1), 0.95 * pace(Machine{}, load, 0));
  for (Workload late = load; late.phase < 0.1; late.phase += 0.01) {
    Loop loop(Machine{});
    loop.run(late, 50'000);
    EXPECT_EQ(loop.workers(), 1) << late.phase;
  }
}

TEST(WorkerTuner, DoesNotHoldTheTimeOfAskingForLimitsAgainstNoWorkers) {
  const Machine machine{.cores = 1, .most_workers = 1, .start_seconds = 0.001, .ask_seconds = 0.03};
  const Workload load{.name = "", .produce = 100e-6, .step = 50e-6};
  Loop loop(machine);
  loop.run(load, 100'000);
  EXPECT_EQ(loop.workers(), 0);
  EXPECT_LT(loop.run(load, 10'000), 10'000 * pace(machine, load, 0) / 0.98);
}

TEST(WorkerTuner, FollowsCostsThatGrowSlowly) {
  const Machine machine{.cores = 8, .most_workers = 8};
  Loop loop(machine);
  Workload load{.name = "", .produce = 4e-3, .step = 5e-3, .noise = 0.01};
  for (; load.produce < 32e-3; load.produce *= 1.07) {
    loop.run(load, 60);
  }
  loop.run(load, 1000);
  EXPECT_GE(loop.workers(), 6);
}

TEST(WorkerTuner, LooksAgainSoonWhereTheFirstStepsWereSlow) {
  const Machine machine{.cores = 8, .most_workers = 8};
  Loop loop(machine);
  loop.run({.name = "", .produce = 10e-3, .step = 0.5}, 4);  // TorchScript optimises its graph
  loop.run({.name = "", .produce = 10e-3, .step = 5e-3}, 46);
  EXPECT_GE(loop.workers(), 1);
}

TEST(WorkerTuner, ChangesSeldomWhereCostsAlternate) {
  const Machine machine{.cores = 8, .most_workers = 8};
  Loop loop(machine);
  for (int i = 0; i < 100; ++i) {
    loop.run({.name = "", .produce = i % 2 == 0 ? 2e-3 : 20e-3, .step = 5e-3}, 150);
  }
  EXPECT_LE(loop.changes().size(), 60U);
}

TEST(WorkerTuner, TriesNoneAgainWhereTheFirstBatchesWereDearByChance) {
  const Machine machine{.cores = 1, .most_workers = 1};  // workers take the trainer's time
  const Workload cold{.name = "", .produce = 8e-3, .step = 1e-3};
  const Workload warm{.name = "", .produce = 1e-3, .step = 1e-3, .noise = 0.01};
  Loop loop(machine);
  loop.run(cold, 4);
  loop.run(warm, 2000);
  EXPECT_EQ(loop.workers(), 0);
  EXPECT_LE(loop.changes().size(), 4U);
}

}  // namespace
}  // namespace torchfeed::loader
