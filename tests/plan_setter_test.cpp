#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/denormals.h>
#include <torchfeed/plugin/threading/onednn_settings.h>
#include <torchfeed/plugin/threading/openmp_team.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading/process_threads.h>
#include <torchfeed/plugin/threading/tensor_memory.h>
#include <torchfeed/plugin/threading/topology.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <future>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

/// Settings belong to the process: what changes them runs in this program started anew.
class PlanSetterDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override {
    for (const char* name : {"OMP_WAIT_POLICY", "OMP_PROC_BIND"}) unsetenv(name);
  }
};

/// Collects what does not hold, and ends the child with it.
class Findings {
 public:
  void expect(bool holds, const std::string& what) {
    if (!holds) text_ += what + "; ";
  }
  [[noreturn]] void finish(const ThreadPlan& plan) {
    if (!text_.empty()) std::fprintf(stderr, "does not hold: %s\n%s", text_.c_str(), plan.explain().c_str());
    _exit(text_.empty() ? 0 : 1);
  }

 private:
  std::string text_;
};

bool has_reason(const ThreadPlan& plan, const std::string& text) {
  return plan.explain().find(text) != std::string::npos;
}

/// A plan for this machine with two threads, whatever the machine has.
ThreadPlan two_threads(const ThreadingOptimizer& optimizer) {
  ThreadPlan plan = optimizer.plan();
  plan.intra_op = 2;
  return plan;
}

ThreadingOptions quiet() { return {.verbose = false}; }

/// Threads that may run on exactly these CPUs.
int threads_on(const std::vector<int>& cpus) {
  int count = 0;
  for (const pid_t thread : threading::process_threads()) count += threading::thread_cpus(thread) == cpus;
  return count;
}

TEST_F(PlanSetterDeathTest, EveryThreadIsBoundToTheTrainersCpusAndPutBack) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        Findings findings;
        threading::run_in_openmp_team(2, [] {});
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        plan.trainer_cpus = {all.front()};
        plan.dataloader_cpus = {all.back()};
        const int before = static_cast<int>(threading::process_threads().size());
        {
          const AppliedPlan applied = optimizer.apply(plan);
          findings.expect(threading::thread_cpus() == plan.trainer_cpus, "the trainer is bound");
          findings.expect(threads_on(plan.trainer_cpus) >= before, "all pools are bound");
          std::vector<int> later;
          std::thread([&later] { later = threading::thread_cpus(); }).join();
          findings.expect(later == plan.trainer_cpus, "later threads inherit it");
          std::atomic<int> team{0};
          threading::run_in_openmp_team(2, [&] { team += threading::thread_cpus() == plan.trainer_cpus; });
          findings.expect(team == 2, "OpenMP's team is bound");
          findings.expect(has_reason(applied.plan(), "were read back as trainer_cpus"), "it is told");
          findings.expect(threading::available_cpus() == all, "the process's own CPUs are remembered");
          findings.expect(threading::load_topology().cpus == all, "a new plan sees the whole machine");
          findings.expect(thread_plan_in_force()->dataloader_cpus == plan.dataloader_cpus, "workers have their CPUs");
        }
        findings.expect(threads_on(all) == static_cast<int>(threading::process_threads().size()), "all are put back");
        findings.expect(!thread_plan_in_force(), "workers may go anywhere again");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, AThreadThatWasBoundOnPurposeStaysThere) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        std::promise<void> bound;
        std::promise<void> end;
        std::vector<int> seen;
        std::thread other([&] {
          threading::bind_current_thread({all.back()});
          bound.set_value();
          end.get_future().wait();
          seen = threading::thread_cpus();
        });
        bound.get_future().wait();
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        plan.trainer_cpus = {all.front()};
        const AppliedPlan applied = optimizer.apply(plan);
        end.set_value();
        other.join();
        _exit(seen == std::vector<int>{all.back()} ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, CpusThatTheMachineHasNotAreToldAndNothingIsBound) {
  // The kernel refuses the first, and of the second it grants what there is.
  const std::vector<std::vector<int>> kinds{{100'000}, {threading::available_cpus().back(), 100'000}};
  EXPECT_EXIT(
      {
        Findings findings;
        const std::vector<int> all = threading::thread_cpus();
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        for (const std::vector<int>& cpus : kinds) {
          plan.trainer_cpus = cpus;
          const AppliedPlan applied = optimizer.apply(plan);
          findings.expect(threads_on(all) == static_cast<int>(threading::process_threads().size()),
                          "the masks are as they were");
          findings.expect(applied.plan().trainer_cpus.empty(), "the plan says so");
          findings.expect(has_reason(applied.plan(), "not bound: the system did not grant these CPUs"), "and why");
        }
        findings.expect(!threading::bind_current_thread({all.back(), 100'000}), "a thread neither");
        findings.expect(threading::thread_cpus() == all, "its mask is as it was");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, CpusInAnyOrderAreBound) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  const std::vector<int> unsorted{all[1], all[0], all[1]};
  EXPECT_EXIT(
      {
        Findings findings;
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        plan.trainer_cpus = unsorted;
        const AppliedPlan applied = optimizer.apply(plan);
        findings.expect(std::is_sorted(applied.plan().trainer_cpus.begin(), applied.plan().trainer_cpus.end()) &&
                            applied.plan().trainer_cpus.size() == 2,
                        "they are in order, each once");
        findings.expect(threading::thread_cpus() == applied.plan().trainer_cpus, "they are bound");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, OneDnnsPrimitiveCacheIsSetReadBackAndPutBack) {
  EXPECT_EXIT(
      {
        Findings findings;
        const auto before = threading::onednn_primitive_cache();
        const ThreadingOptimizer optimizer({.primitive_cache = 77, .verbose = false});
        ThreadPlan plan = optimizer.plan();
        {
          const AppliedPlan applied = optimizer.apply(plan);
          plan = applied.plan();
          if (before) {
            findings.expect(threading::onednn_primitive_cache() == 77, "it is set");
            findings.expect(plan.primitive_cache == 77, "it is read back");
          } else {
            findings.expect(has_reason(plan, "primitive_cache stays 0, not 77: LibTorch's oneDNN cannot be reached"),
                            "it is told");
          }
        }
        findings.expect(threading::onednn_primitive_cache() == before, "it is put back");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, FreedTensorsMemoryIsKeptReadBackAndPutBack) {
  EXPECT_EXIT(
      {
        Findings findings;
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = optimizer.plan();
        plan.tensor_memory = 64 << 20;
        at::Tensor kept;
        {
          const AppliedPlan applied = optimizer.apply(plan);
          plan = applied.plan();
          if (has_reason(plan, "AddressSanitizer watches it")) _exit(0);
          findings.expect(threading::tensor_memory().limit == 64 << 20, "it is set");
          findings.expect(plan.tensor_memory == 64 << 20, "it is read back");
          kept = at::ones({1'000'000});
          const AppliedPlan within = optimizer.apply([&] {
            ThreadPlan more = plan;
            more.tensor_memory = 128 << 20;
            return more;
          }());
          findings.expect(threading::tensor_memory().limit == 128 << 20, "a second plan has its own");
          {
            ThreadPlan none = plan;
            none.tensor_memory = 0;
            const AppliedPlan off = optimizer.apply(none);
            findings.expect(threading::tensor_memory().limit == 0 && off.plan().tensor_memory == 0, "a third ends it");
          }
          findings.expect(threading::tensor_memory().limit == 128 << 20, "and puts it back");
        }
        findings.expect(threading::tensor_memory().limit == 0, "it is put back");
        findings.expect(kept.sum().item<float>() == 1'000'000, "tensors outlive it");
        findings.expect(ThreadingOptimizer({.tensor_memory = false}).plan().tensor_memory == 0, "an option refuses it");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, APlanThatLivesAsLongAsTheProcessIsPutBackAtItsEnd) {
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = optimizer.plan();
        plan.tensor_memory = 64 << 20;
        static const AppliedPlan applied = optimizer.apply(plan);
        for (int size = 1; size < 10'000; size += 100) at::ones({size});
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, FpMathIsChangedOnlyWhenAskedAndPutBack) {
  EXPECT_EXIT(
      {
        Findings findings;
        const auto before = threading::onednn_fpmath_mode();
        { const AppliedPlan applied = ThreadingOptimizer(quiet()).apply(two_threads(ThreadingOptimizer(quiet()))); }
        findings.expect(threading::onednn_fpmath_mode() == before, "nothing changes by itself");
        const ThreadingOptimizer optimizer({.fp_math = FpMath::kBf16, .verbose = false});
        ThreadPlan plan = optimizer.plan();
        {
          const AppliedPlan applied = optimizer.apply(plan);
          plan = applied.plan();
          findings.expect(before ? threading::onednn_fpmath_mode() == 1 && has_reason(plan, "fp_math = bf16: asked for")
                                 : has_reason(plan, "fp_math stays as it is, not bf16"),
                          "it is set, or told");
        }
        findings.expect(threading::onednn_fpmath_mode() == before, "it is put back");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, DenormalsAreFlushedInEveryThreadOfAnOperatorAndPutBack) {
  EXPECT_EXIT(
      {
        Findings findings;
        const bool before = threading::flushes_denormals();
        const ThreadingOptimizer optimizer({.flush_denormals = true, .verbose = false});
        // Both halves of a large tensor, so that both threads compute.
        const at::Tensor tiny = at::full({1'000'000}, 2e-38F);
        const auto zeros = [&] { return (tiny * 0.1).eq(0).sum().item<int64_t>(); };
        ThreadPlan plan = two_threads(optimizer);
        {
          const AppliedPlan applied = optimizer.apply(plan);
          plan = applied.plan();
          findings.expect(zeros() == 1'000'000, "ATen flushes");
          findings.expect(has_reason(plan, "flush_denormals = 1: asked for, and seen in 2 of 2 threads"), "it is told");
        }
        findings.expect(threading::flushes_denormals() == before, "this thread is put back");
        at::set_num_threads(2);
        findings.expect(zeros() == 0, "its team is put back");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, NicenessIsRaisedInEveryThreadWhenAsked) {
  EXPECT_EXIT(
      {
        Findings findings;
        threading::run_in_openmp_team(2, [] {});
        const int wanted = std::min(19, threading::niceness() + 2);
        const ThreadingOptimizer optimizer({.nice = wanted, .verbose = false});
        AppliedPlan applied = optimizer.apply(two_threads(optimizer));
        for (const pid_t thread : threading::process_threads())
          findings.expect(getpriority(PRIO_PROCESS, static_cast<id_t>(thread)) == wanted, "a thread's niceness");
        findings.expect(has_reason(applied.plan(), "nice = " + std::to_string(wanted) + ": asked for and read back in"),
                        "it is told");
        applied.restore();  // says on stderr where this user may not
        findings.expect(threading::niceness() == wanted - 2 || geteuid() != 0, "root can put it back");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

/// A thread that does to itself what it is given, and then waits for the end of the scope.
class OtherThread {
 public:
  explicit OtherThread(std::function<void()> begin)
      : thread_([this, begin = std::move(begin)] {
          begin();
          id_.set_value(gettid());
          end_.get_future().wait();
        }) {}
  ~OtherThread() {
    end_.set_value();
    thread_.join();
  }
  pid_t id() { return known_ != 0 ? known_ : known_ = id_.get_future().get(); }

 private:
  std::promise<pid_t> id_;
  std::promise<void> end_;
  pid_t known_ = 0;
  std::thread thread_;
};

TEST_F(PlanSetterDeathTest, AThreadThatHasANicenessOfItsOwnKeepsIt) {
  EXPECT_EXIT(
      {
        Findings findings;
        const int before = threading::niceness();
        const int wanted = std::min(18, before + 2);
        // One as nice as is asked for, and one nicer.
        OtherThread alike([&] { setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), wanted); });
        OtherThread nicer([&] { setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), wanted + 1); });
        const auto niceness = [](pid_t thread) { return getpriority(PRIO_PROCESS, static_cast<id_t>(thread)); };
        findings.expect(niceness(alike.id()) == wanted && niceness(nicer.id()) == wanted + 1, "they have their own");
        const ThreadingOptimizer optimizer({.nice = wanted, .verbose = false});
        AppliedPlan applied = optimizer.apply(two_threads(optimizer));
        findings.expect(niceness(nicer.id()) == wanted + 1, "the nicer one keeps it");
        findings.expect(has_reason(applied.plan(), "; 2 threads had another already"), "it is told");
        applied.restore();
        findings.expect(niceness(alike.id()) == wanted, "what was as nice before stays so");
        findings.expect(niceness(nicer.id()) == wanted + 1, "the nicer one too");
        findings.expect(threading::niceness() == before || geteuid() != 0, "root can put its own back");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, RealTimeSchedulingIsPutBackWithoutTheRightToItToo) {
  EXPECT_EXIT(
      {
        Findings findings;
        rlimit enough{};
        enough.rlim_cur = enough.rlim_max = 10;
        const bool allowed = ::setrlimit(RLIMIT_RTPRIO, &enough) == 0;
        findings.expect(geteuid() != 0 || ::setresuid(65534, 65534, 65534) == 0, "rights are given up");
        const ThreadingOptimizer optimizer({.real_time = RealTime{}, .verbose = false});
        AppliedPlan applied = optimizer.apply(two_threads(optimizer));
        if (!has_reason(applied.plan(), "SCHED_RR, priority 1, asked for and read back in")) {
          findings.expect(!allowed || has_reason(applied.plan(), "was asked for, but refused"), "refused as a whole");
          findings.finish(applied.plan());
        }
        applied.restore();
        for (const pid_t thread : threading::process_threads())
          findings.expect((sched_getscheduler(thread) & ~SCHED_RESET_ON_FORK) == SCHED_OTHER, "it is put back");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, SettingsThatTheSystemRefusesAreToldNotThrown) {
  EXPECT_EXIT(
      {
        Findings findings;
        // Nobody, so that this holds for root too.
        findings.expect(geteuid() != 0 || ::setresuid(65534, 65534, 65534) == 0, "rights are given up");
        const rlimit none{};
        ::setrlimit(RLIMIT_RTPRIO, &none);
        ::setrlimit(RLIMIT_NICE, &none);
        const ThreadingOptimizer optimizer(
            {.nice = -10, .real_time = RealTime{.policy = RealTime::Policy::kFifo, .priority = 5}, .verbose = false});
        const AppliedPlan applied = optimizer.apply(two_threads(optimizer));
        findings.expect(has_reason(applied.plan(), "nice = " + std::to_string(::getpriority(PRIO_PROCESS, 0)) +
                                                       ": -10 was asked for, but refused: Permission denied"),
                        "niceness");
        findings.expect(
            has_reason(applied.plan(), "SCHED_FIFO, priority 5 was asked for, but refused: Operation not permitted"),
            "real time");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, RealTimeSchedulingHoldsForOpenMpsTeamAndNotForForkedWorkers) {
  EXPECT_EXIT(
      {
        Findings findings;
        const ThreadingOptimizer optimizer({.real_time = RealTime{}, .verbose = false});
        AppliedPlan applied = optimizer.apply(two_threads(optimizer));
        if (!has_reason(applied.plan(), "real_time: SCHED_RR, priority 1, asked for and read back in")) {
          findings.expect(has_reason(applied.plan(), "was asked for, but refused"), "one or the other is told");
          findings.finish(applied.plan());
        }
        std::atomic<int> team{0};
        threading::run_in_openmp_team(2, [&] { team += (sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_RR; });
        findings.expect(team == 2, "the team has it");
        const pid_t child = ::fork();
        if (child == 0) _exit(sched_getscheduler(0) == SCHED_OTHER ? 0 : 1);
        int status = 1;
        ::waitpid(child, &status, 0);
        findings.expect(status == 0, "a forked worker has not");
        applied.restore();
        findings.expect(sched_getscheduler(0) == SCHED_OTHER, "it is put back");
        findings.finish(applied.plan());
      },
      ::testing::ExitedWithCode(0), "");
}

/// CPU time of the OpenMP thread beside this one from the end of a region until it sleeps, in seconds.
double spinning_seconds() {
  std::atomic<pid_t> partner{0};
  std::atomic<double> used{0};
  const pid_t self = gettid();
  const auto cpu_seconds = [](clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  clockid_t clock{};
  threading::run_in_openmp_team(2, [&] {
    if (gettid() == self) return;
    pthread_getcpuclockid(pthread_self(), &clock);
    used = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    partner = gettid();
  });
  const std::string path = "/proc/self/task/" + std::to_string(partner.load()) + "/stat";
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (std::string state; state != "S" && std::chrono::steady_clock::now() < deadline;) {
    std::string id;
    std::string name;
    std::ifstream(path) >> id >> name >> state;
    std::this_thread::yield();
  }
  return cpu_seconds(clock) - used;
}

TEST_F(PlanSetterDeathTest, IdleOpenMpThreadsSpinShortlyWhileThePlanIsInForceAndAsBeforeAfterIt) {
  EXPECT_EXIT(
      {
        Findings findings;
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        plan.blas_on_openmp = false;
        plan.short_spinning = true;
        spinning_seconds();  // starts the team
        const double before = spinning_seconds();
        double meanwhile = 0;
        {
          const AppliedPlan applied = optimizer.apply(plan);
          plan = applied.plan();
          if (!has_reason(plan, "sleep at once instead of spinning")) _exit(0);  // another OpenMP, many CPUs
          meanwhile = spinning_seconds();
        }
        const double after = spinning_seconds();
        const std::string figures =
            std::to_string(before) + ", " + std::to_string(meanwhile) + ", " + std::to_string(after) + " s";
        findings.expect(meanwhile < before / 5, "shorter: " + figures);
        findings.expect(after > 5 * meanwhile, "as before: " + figures);
        findings.expect(threading::parked_openmp_threads() == 0, "no thread is left");
        findings.finish(plan);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, ThePlanInForceIsTheLastThatWasNotPutBack) {
  EXPECT_EXIT(
      {
        Findings findings;
        findings.expect(!thread_plan_in_force(), "none at first");
        const ThreadPlan outer = optimize_system_for_training({.intra_op = 2, .verbose = false});
        findings.expect(thread_plan_in_force() && thread_plan_in_force()->intra_op == 2, "the kept one");
        {
          const ThreadingOptimizer optimizer({.intra_op = 3, .verbose = false});
          const AppliedPlan applied = optimizer.apply(optimizer.plan());
          findings.expect(thread_plan_in_force()->intra_op == 3, "the inner one");
        }
        findings.expect(thread_plan_in_force()->intra_op == 2, "the kept one again");
        findings.expect(at::get_num_threads() == 2, "and its threads");
        findings.finish(outer);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(PlanSetterDeathTest, AKeptPlanStaysBoundToItsCpus) {
  const std::vector<int> all = threading::available_cpus();
  if (all.size() < 2) GTEST_SKIP() << "needs two CPUs";
  EXPECT_EXIT(
      {
        const ThreadingOptimizer optimizer(quiet());
        ThreadPlan plan = two_threads(optimizer);
        plan.trainer_cpus = {all.front()};
        optimizer.apply(plan).keep();
        const bool stays = threading::thread_cpus() == plan.trainer_cpus;
        const AppliedPlan again = optimizer.apply(plan);
        std::exit(stays && threading::thread_cpus() == plan.trainer_cpus && threading::available_cpus() == all ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(PlanSetterTest, OptionsOutsideTheirRangeAreRefused) {
  const auto refusal = [](ThreadingOptions options) -> std::string {
    try {
      ThreadingOptimizer optimizer(options);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "none";
  };
  EXPECT_EQ(refusal({.primitive_cache = -1}), "ThreadingOptions: expected primitive_cache from 0 to 1048576, got -1");
  EXPECT_EQ(refusal({.nice = 20}), "ThreadingOptions: expected nice from -20 to 19, got 20");
  EXPECT_EQ(refusal({.real_time = RealTime{.priority = 0}}),
            "ThreadingOptions: expected real_time.priority from 1 to 99, got 0");
}

TEST(PlanSetterTest, APlanWithACpuOutOfRangeIsNotApplied) {
  const ThreadingOptimizer optimizer(quiet());
  ThreadPlan plan = optimizer.plan();
  plan.trainer_cpus = {-1};
  EXPECT_THROW(static_cast<void>(optimizer.apply(plan)), c10::Error);
}

}  // namespace
}  // namespace torchfeed
