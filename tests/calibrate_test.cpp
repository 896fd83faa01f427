#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <torchfeed/plugin/calibrate.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/calibration.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using threading::CalibrationRounds;
using threading::choose;
using threading::measure_rounds;

/// What chance makes of a step, as a factor.
using Noise = std::function<double(std::mt19937&)>;

Noise uniform(double share) {
  return [share](std::mt19937& generator) {
    return std::uniform_real_distribution<double>(1 - share, 1 + share)(generator);
  };
}

/// Never faster than 1, and slower by `share` of the time on average: what others on the machine do to a step.
Noise exponential(double share) {
  return [share](std::mt19937& generator) { return 1 + std::exponential_distribution<double>(1 / share)(generator); };
}

/// Some steps take up to three times as long, the others a hundredth more or less.
Noise spikes(double how_many) {
  return [how_many](std::mt19937& generator) {
    const bool spike = std::bernoulli_distribution(how_many)(generator);
    return spike ? std::uniform_real_distribution<double>(1.5, 3)(generator) : uniform(0.01)(generator);
  };
}

/// A machine whose clock moves only while it measures: settings cost what they are given, times chance.
class MadeUpMachine {
 public:
  MadeUpMachine(std::vector<double> seconds, double noise, unsigned seed = 1)
      : MadeUpMachine(std::move(seconds), uniform(noise), seed) {}
  MadeUpMachine(std::vector<double> seconds, Noise noise, unsigned seed)
      : seconds_(std::move(seconds)), noise_(std::move(noise)), generator_(seed) {}

  CalibrationRounds measure(double budget) {
    return measure_rounds(
        seconds_.size() - 1, budget,
        [this](size_t setting, const threading::StepLimits& limits) -> std::optional<double> {
          if (time_ >= limits.end) return std::nullopt;
          ++calls_[setting];
          const double chance = noise_(generator_);
          time_ += seconds_[setting] * chance;
          return seconds_[setting] * chance;
        },
        [this] { return time_; });
  }
  double time() const { return time_; }
  int calls(size_t setting) { return calls_[setting]; }

 private:
  std::vector<double> seconds_;
  Noise noise_;
  std::mt19937 generator_;
  double time_ = 0;
  std::map<size_t, int> calls_;
};

TEST(CalibrationRuleTest, TheFastestCandidateBeyondNoiseIsChosen) {
  EXPECT_EQ(choose(MadeUpMachine({1, 0.9, 0.7, 1.2}, 0.01).measure(100), 0.02), 1u);
}

TEST(CalibrationRuleTest, AGainBelowTheLeastChangesNothing) {
  const CalibrationRounds rounds = MadeUpMachine({1, 0.985}, 0.001).measure(100);
  EXPECT_FALSE(choose(rounds, 0.02));
  EXPECT_EQ(choose(rounds, 0.01), 0u);
}

const std::map<std::string, Noise>& kinds_of_noise() {
  static const std::map<std::string, Noise> kinds{{"uniform, 20 %", uniform(0.2)},
                                                  {"exponential, 20 %", exponential(0.2)},
                                                  {"exponential, 100 %", exponential(1)},
                                                  {"spikes, 10 %", spikes(0.1)},
                                                  {"spikes, 25 %", spikes(0.25)}};
  return kinds;
}

TEST(CalibrationRuleTest, AGainThatChanceGivesAsWellChangesNothing) {
  for (const auto& [name, noise] : kinds_of_noise()) {
    for (const size_t candidates : {size_t{1}, size_t{6}}) {
      int changed = 0;
      for (unsigned seed = 0; seed < 1000; ++seed) {
        MadeUpMachine machine(std::vector<double>(1 + candidates, 1.0), noise, seed);
        changed += choose(machine.measure(20.0 * static_cast<double>(2 + candidates)), 0.02).has_value();
      }
      EXPECT_LE(changed, 65) << "of 1000 machines, 5 % and what chance adds; noise: " << name << ", " << candidates
                             << " candidates";
    }
  }
}

TEST(CalibrationRuleTest, ALossIsNotTakenForAGain) {
  int changed = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    changed += choose(MadeUpMachine({1, 1.05, 1.05, 1.05, 1.05}, uniform(0.2), seed).measure(140), 0.02).has_value();
  }
  EXPECT_LE(changed, 1) << "of 200 machines with 20 % noise and 4 candidates that are 5 % slower";
}

TEST(CalibrationRuleTest, ARoundThatSomethingElseDisturbedDoesNotHideAGain) {
  CalibrationRounds rounds;
  rounds.first = rounds.second = std::vector<double>(13, 1.0);
  rounds.candidates = {std::vector<double>(13, 0.87)};
  rounds.candidates[0][4] = rounds.candidates[0][9] = 3;
  EXPECT_EQ(choose(rounds, 0.02), 0u);
  rounds.candidates[0][5] = rounds.candidates[0][6] = 3;
  EXPECT_FALSE(choose(rounds, 0.02)) << "4 of 13";
}

TEST(CalibrationRuleTest, AGainBeyondTheNoiseIsFoundInIt) {
  for (const auto& [name, noise] : kinds_of_noise()) {
    if (name == "exponential, 100 %") continue;
    int found = 0;
    for (unsigned seed = 0; seed < 200; ++seed)
      found += choose(MadeUpMachine({1, 0.5}, noise, seed).measure(100), 0.02) == size_t{0};
    EXPECT_GE(found, 190) << name;
  }
}

TEST(CalibrationRuleTest, ASlowStretchOfTheMachineMeetsAllAlike) {
  CalibrationRounds rounds;
  rounds.candidates.resize(1);
  for (int round = 0; round < 10; ++round) {
    const double slow = round < 5 ? 1 : 3;
    rounds.first.push_back(slow);
    rounds.second.push_back(slow);
    rounds.candidates[0].push_back(slow);
  }
  EXPECT_FALSE(choose(rounds, 0.02));
  for (double& seconds : rounds.candidates[0]) seconds *= 0.9;
  EXPECT_EQ(choose(rounds, 0.02), 0u);
}

TEST(CalibrationRuleTest, TooFewRoundsDecideNothing) {
  CalibrationRounds rounds;
  rounds.candidates.resize(1);
  for (size_t round = 0; round < threading::kLeastRounds; ++round) {
    EXPECT_FALSE(choose(rounds, 0.02)) << round;
    rounds.first.push_back(1);
    rounds.second.push_back(1);
    rounds.candidates[0].push_back(0.5);
  }
  EXPECT_EQ(choose(rounds, 0.02), 0u);
}

std::vector<size_t> order_of_measuring(size_t candidates, double budget) {
  std::vector<size_t> order;
  double time = 0;
  measure_rounds(
      candidates, budget,
      [&](size_t setting, const threading::StepLimits&) {
        order.push_back(setting);
        time += 1;
        return std::optional<double>(1);
      },
      [&] { return time; });
  return order;
}

TEST(CalibrationRoundsTest, TheBudgetIsKeptToTheLastMeasurement) {
  MadeUpMachine machine({1, 1, 1}, 0);
  const CalibrationRounds rounds = machine.measure(10);
  EXPECT_LE(machine.time(), 10 + 1);
  EXPECT_EQ(rounds.first.size(), 2u) << "a round takes 4 s; the third was cut off";
  EXPECT_EQ(rounds.candidates[1].size(), 2u);
}

TEST(CalibrationRoundsTest, NobodyMeasuresTheDefaultAlone) {
  MadeUpMachine machine({1, 5}, 0.01);
  EXPECT_EQ(machine.measure(100).first.size(), 1u);
  EXPECT_EQ(order_of_measuring(0, 100).size(), 2u);
}

TEST(CalibrationRuleTest, ManyCandidatesNeedMoreRoundsAndThenCanWin) {
  EXPECT_EQ(threading::least_rounds(0), 7u);
  EXPECT_EQ(threading::least_rounds(6), 7u);
  EXPECT_EQ(threading::least_rounds(7), 8u);
  EXPECT_EQ(threading::least_rounds(13), 9u);
  CalibrationRounds rounds;
  rounds.candidates.resize(7);
  rounds.abandoned.resize(7);
  while (rounds.first.size() < threading::least_rounds(7)) {
    EXPECT_FALSE(choose(rounds, 0.02));
    rounds.first.push_back(1);
    rounds.second.push_back(1);
    for (auto& seconds : rounds.candidates) seconds.push_back(1);
    rounds.candidates[3].back() = 0.5;
  }
  EXPECT_EQ(choose(rounds, 0.02), 3u);
}

TEST(CalibrationRoundsTest, ABudgetBelowARoundGivesNone) {
  MadeUpMachine machine({1, 1}, 0);
  EXPECT_EQ(machine.measure(0.001).first.size(), 0u);
  EXPECT_EQ(machine.time(), 1) << "one step was under way";
}

TEST(CalibrationRoundsTest, AHopelessCandidateIsGivenUpAndTheTimeGoesToTheOthers) {
  MadeUpMachine machine({1, 1.9, 0.8}, 0.01);
  const CalibrationRounds rounds = machine.measure(100);
  EXPECT_EQ(rounds.candidates[0].size(), 3u);
  EXPECT_FALSE(rounds.abandoned[0]);
  EXPECT_EQ(machine.calls(1), 3);
  EXPECT_GT(rounds.candidates[1].size(), 20u);
  EXPECT_EQ(choose(rounds, 0.02), 1u);
}

TEST(CalibrationRoundsTest, ACandidateThatIsFarSlowerIsMeasuredOnce) {
  MadeUpMachine machine({1, 5, 0.8}, 0.01);
  const CalibrationRounds rounds = machine.measure(100);
  EXPECT_EQ(machine.calls(1), 1);
  EXPECT_TRUE(rounds.abandoned[0]);
  EXPECT_FALSE(rounds.abandoned[1]);
  EXPECT_EQ(choose(rounds, 0.02), 1u);
}

TEST(CalibrationRoundsTest, AShortStepMayTakeLongWhileThreadsStart) {
  EXPECT_FALSE(MadeUpMachine({0.001, 0.1}, 0).measure(1).abandoned[0]);
  EXPECT_TRUE(MadeUpMachine({0.001, 0.13}, 0).measure(1).abandoned[0]);
}

TEST(CalibrationRoundsTest, ACandidateThatWasGivenUpIsNotChosen) {
  CalibrationRounds rounds;
  rounds.candidates = {{0.5, 0.5, 0.5}};
  rounds.first = rounds.second = std::vector<double>(10, 1.0);
  EXPECT_FALSE(choose(rounds, 0.02));
}

TEST(CalibrationRoundsTest, NobodyAlwaysFollowsTheSameOther) {
  const std::vector<size_t> order = order_of_measuring(3, 500);
  EXPECT_EQ(order, order_of_measuring(3, 500)) << "the same in each calibration";
  EXPECT_EQ(order.front(), 0u) << "the default first, to compare with";
  std::map<std::pair<size_t, size_t>, int> follows;
  for (size_t i = 1; i < order.size(); ++i) ++follows[{order[i - 1], order[i]}];
  for (size_t before = 0; before <= 3; ++before)
    for (size_t after = 1; after <= 3; ++after) {
      EXPECT_TRUE(before == after || follows[std::pair(before, after)] >= 5) << before << " " << after;
    }
}

/// A step that costs what it is given for the number of threads that is set, on a clock of its own: what else the
/// machine does is no part of the test.
class MadeUpStep {
 public:
  explicit MadeUpStep(std::function<double(int)> seconds) : seconds_(std::move(seconds)) {}

  Calibration calibrate(double time = 5, double least_gain = 0.02) {
    CalibrationOptions options;
    options.time = std::chrono::milliseconds(static_cast<int>(1000 * time));
    options.least_gain = least_gain;
    options.verbose = false;
    options.now = [this] { return time_; };
    return torchfeed::calibrate([this] { time_ += seconds_(at::get_num_threads()); }, options);
  }

 private:
  std::function<double(int)> seconds_;
  double time_ = 0;
};

/// The number of threads is the process's: what changes it runs in this program started anew.
class CalibrateDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    unsetenv("OMP_NUM_THREADS");
  }
  void TearDown() override {
    for (const char* name : {"OMP_NUM_THREADS", "OMP_WAIT_POLICY"}) unsetenv(name);
  }
};

/// Ends the child with success where `condition` holds, and with the explanation on stderr where not.
[[noreturn]] void finish(bool condition, const Calibration& result) {
  if (!condition) std::fputs(result.explain().c_str(), stderr);
  _exit(condition ? 0 : 1);
}

TEST_F(CalibrateDeathTest, ThreadsThatSpeedUpTheStepAreKept) {
  if (ThreadingOptimizer().plan().training < 2) GTEST_SKIP() << "needs two cores";
  EXPECT_EXIT(
      {
        at::set_num_threads(1);
        const Calibration result = MadeUpStep([](int threads) { return 0.004 / threads; }).calibrate();
        const int most = ThreadingOptimizer().plan().training;
        finish(result.chosen >= 0 && at::get_num_threads() == most && result.plan.intra_op == most &&
                   result.before.intra_op == 1 && result.rounds >= 7 && result.seconds < 5.1 &&
                   result.candidates[static_cast<size_t>(result.chosen)].gain > 1.9 &&
                   result.explain().find("kept: intra_op = " + std::to_string(most)) != std::string::npos &&
                   thread_plan_in_force()->intra_op == most,
               result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, FewerThreadsAreKeptWhereTheyAreFaster) {
  EXPECT_EXIT(
      {
        at::set_num_threads(4);
        const Calibration result = MadeUpStep([](int threads) { return 0.002 * threads; }).calibrate();
        finish(at::get_num_threads() == 1 && result.plan.intra_op == 1 && result.before.intra_op == 4, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, ThreadsThatSlowTheStepDownAreNotKept) {
  EXPECT_EXIT(
      {
        at::set_num_threads(1);
        const auto blas = threading::blas_num_threads();
        const Calibration result = MadeUpStep([](int threads) { return 0.002 * threads; }).calibrate();
        finish(result.chosen == -1 && at::get_num_threads() == 1 && result.plan.intra_op == 1 &&
                   threading::blas_num_threads() == blas && threading::parked_openmp_threads() == 0 &&
                   result.explain().find("nothing is changed: nothing else gains more than 2.0 %") != std::string::npos,
               result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, AGainBelowTheLeastIsNotKept) {
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        const Calibration result =
            MadeUpStep([](int threads) { return threads == 3 ? 0.002 : 0.0015; }).calibrate(5, 0.5);
        finish(result.chosen == -1 && at::get_num_threads() == 3, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, LongStepsAreMeasuredForTheLikeliestCandidatesAlone) {
  EXPECT_EXIT(
      {
        at::set_num_threads(5);
        const Calibration result = MadeUpStep([](int threads) { return threads == 5 ? 0.2 : 0.1; }).calibrate();
        finish(result.chosen == 0 && result.candidates.size() == 1 && result.seconds < 5.3, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, AStepThatIsTooLongForTheTimeDecidesNothingAndSaysSo) {
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        const Calibration result = MadeUpStep([](int threads) { return threads == 3 ? 2 : 0.5; }).calibrate();
        finish(result.chosen == -1 && at::get_num_threads() == 3 &&
                   result.explain().find("are too few to decide") != std::string::npos,
               result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, AnExceptionOfTheStepLeavesEverythingAsBefore) {
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        const auto blas = threading::blas_num_threads();
        std::string text;
        try {
          MadeUpStep([](int threads) {
            if (threads != 3) throw std::runtime_error("no such luck");
            return 0.001;
          }).calibrate();
        } catch (const std::runtime_error& error) {
          text = error.what();
        }
        _exit(text == "no such luck" && at::get_num_threads() == 3 && threading::blas_num_threads() == blas &&
                      threading::parked_openmp_threads() == 0 && !thread_plan_in_force()
                  ? 0
                  : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, ThreadsThatTheUserFixedAreNotTriedOtherwise) {
  setenv("OMP_NUM_THREADS", "2", 1);
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        const auto blas = threading::blas_num_threads();
        const Calibration result = MadeUpStep([](int threads) { return 0.001 / threads; }).calibrate();
        const bool two = std::all_of(result.candidates.begin(), result.candidates.end(), [&](const MeasuredThreads& t) {
          return t.intra_op == 2 && t.blas == (blas ? 2 : 0);
        });
        finish(two && !result.candidates.empty() && result.before.intra_op == 3, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, WhatCannotBeSetIsNotTriedAndNothingIsTriedTwice) {
  setenv("OMP_WAIT_POLICY", "active", 1);
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        const Calibration result = MadeUpStep([](int) { return 0.001; }).calibrate();
        bool holds = !result.candidates.empty();
        for (size_t i = 0; i < result.candidates.size(); ++i) {
          const MeasuredThreads& one = result.candidates[i];
          holds = holds && !one.short_spinning;
          for (size_t j = 0; j < i; ++j)
            holds = holds && (one.intra_op != result.candidates[j].intra_op || one.blas != result.candidates[j].blas ||
                              one.blas_on_openmp != result.candidates[j].blas_on_openmp ||
                              one.blas_kernels != result.candidates[j].blas_kernels ||
                              one.tensor_memory != result.candidates[j].tensor_memory);
        }
        finish(holds, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, FirstStepsThatGetFasterAreNotTakenForTheStep) {
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        // A compiler's: slow, slower, and then fast. The first alone would let a single candidate in.
        int run = 0;
        const Calibration result = MadeUpStep([&run](int) {
                                     ++run;
                                     return run == 1 ? 0.04 : run == 2 ? 0.03 : 0.001;
                                   }).calibrate(3);
        finish(result.candidates.size() > 1 && result.rounds >= 7, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, AFarSlowerCandidateDoesNotTakeTheOthersTime) {
  EXPECT_EXIT(
      {
        at::set_num_threads(3);
        // With one thread a step takes a fifth of the time for all.
        const Calibration result = MadeUpStep([](int threads) { return threads == 1 ? 1.0 : 0.01; }).calibrate();
        finish(result.seconds < 5.1 && result.rounds >= 7 && at::get_num_threads() != 1, result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, APlanThatBindsThreadsKeepsItsCpus) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer;
        ThreadPlan plan = optimizer.plan();
        plan.intra_op = 1;
        plan.trainer_cpus = {all.front()};
        plan.dataloader_cpus = {all.back()};
        plan.dataloader = 7;
        optimizer.apply(plan).keep();
        const Calibration result = MadeUpStep([](int threads) { return 0.001 / threads; }).calibrate();
        finish(result.plan.trainer_cpus == plan.trainer_cpus && threading::thread_cpus() == plan.trainer_cpus &&
                   thread_plan_in_force()->dataloader_cpus == plan.dataloader_cpus &&
                   thread_plan_in_force()->dataloader == 7 && at::get_num_threads() == 1,
               result);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(CalibrateDeathTest, ARealStepIsMeasuredAndThePlanPrinted) {
  EXPECT_EXIT(
      {
        const at::Tensor matrix = at::randn({128, 128});
        CalibrationOptions options;
        options.time = std::chrono::milliseconds(3000);
        const auto step = [&] { at::mm(matrix, matrix); };
        Calibration result = calibrate(step, options);
        // Ten rounds usually; none where others had the cores all the time.
        for (int i = 0; i < 3 && result.rounds == 0; ++i) result = calibrate(step, options);
        finish(result.rounds >= 1 && result.before.step_seconds > 0 && at::get_num_threads() == result.plan.intra_op,
               result);
      },
      ::testing::ExitedWithCode(0),
      "torchfeed: threads by measuring, .* rounds in .*\n  as before: intra_op = .* a step");
}

TEST(CalibrateTest, OptionsOutsideTheirRangeAreRefused) {
  const auto refusal = [](const std::function<void()>& step, const CalibrationOptions& options) -> std::string {
    try {
      calibrate(step, options);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "none";
  };
  CalibrationOptions options;
  options.time = std::chrono::milliseconds(0);
  EXPECT_EQ(refusal([] {}, options), "CalibrationOptions: expected time above 0 ms, got 0 ms");
  options = {};
  options.least_gain = 1.5;
  EXPECT_EQ(refusal([] {}, options), "CalibrationOptions: expected least_gain from 0 to 1, got 1.5");
  EXPECT_EQ(refusal(nullptr, {}), "calibrate: expected a step to call, got an empty function");
}

}  // namespace
}  // namespace torchfeed
