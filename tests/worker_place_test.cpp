#include <torchfeed/plugin/loader/worker_place.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <gtest/gtest.h>

#include <sched.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <thread>
#include <vector>

namespace torchfeed::loader {
namespace {

using Clock = WorkerPlace::Clock;

class WorkerPlaces : public ::testing::Test {
 protected:
  void SetUp() override {
    cpus_ = threading::thread_cpus();
    if (cpus_.size() < 2) {
      GTEST_SKIP() << "one CPU leaves no choice";
    }
    cpus_.resize(2);
    ring_ = std::make_unique<SlotRing>(1, std::uint64_t{0}, /*spins=*/1);
    ring_->header().target_workers = 2;
    ring_->header().trainer_cpu = cpus_[0];
  }

  /// Runs in a thread that may run on the first two CPUs and begins on the first.
  template <typename Function>
  void in_worker(Function function) {
    std::thread([&] {
      ASSERT_TRUE(threading::bind_current_thread({cpus_[0]}));
      ASSERT_TRUE(threading::bind_current_thread(cpus_));
      function();
      EXPECT_EQ(threading::thread_cpus(), cpus_) << "it is moved, not bound";
    }).join();
  }

  /// Looks before batches that take so long each, until a tenth of a second has gone by.
  static void look_for_a_while(WorkerPlace& place, Clock::time_point& now, std::chrono::microseconds batch) {
    for (const auto end = now + std::chrono::milliseconds(100); now < end; now += batch) {
      place.look(now);
    }
  }

  int place_of(int worker) const { return ring_->header().worker_cpu[worker].load(); }

  std::vector<int> cpus_;
  std::unique_ptr<SlotRing> ring_;
};

TEST_F(WorkerPlaces, BeginAwayFromTheTrainerAndFromEachOther) {
  in_worker([&] {
    const WorkerPlace place(*ring_, 0, Clock::time_point());
    EXPECT_EQ(place_of(0), cpus_[1]);
  });
  in_worker([&] {
    const WorkerPlace place(*ring_, 1, Clock::time_point());
    EXPECT_EQ(place_of(1), cpus_[0]);
  });
  EXPECT_EQ(place_of(1), -1) << "one that has left is nowhere";
}

TEST_F(WorkerPlaces, AreNobodysOnceAWorkerHasDied) {
  ring_->header().worker_cpu[1] = cpus_[1];
  ring_->recover(1, SIGKILL);
  EXPECT_EQ(place_of(1), -1);
}

TEST_F(WorkerPlaces, LeaveTheCpuOfATrainerThatSpinsIfBatchesAreSmall) {
  in_worker([&] {
    Clock::time_point now;
    WorkerPlace place(*ring_, 0, now);
    ring_->header().trainer_cpu = cpus_[1];  // it has come to where the worker is
    look_for_a_while(place, now, std::chrono::milliseconds(2));
    EXPECT_EQ(place_of(0), cpus_[1]) << "batches of 2 ms are left to Linux";
    look_for_a_while(place, now, std::chrono::microseconds(10));
    EXPECT_EQ(place_of(0), cpus_[0]);
  });
}

TEST_F(WorkerPlaces, LeaveTheCpuOfAnotherWorkerThatIsAwake) {
  ring_->header().spins = 0;  // the trainer sleeps
  in_worker([&] {
    Clock::time_point now;
    WorkerPlace place(*ring_, 0, now);
    ring_->header().worker_cpu[1] = cpus_[1];
    ring_->header().sleeping[0] = 2;
    look_for_a_while(place, now, std::chrono::microseconds(10));
    EXPECT_EQ(place_of(0), cpus_[1]) << "the other one sleeps";
    ring_->header().sleeping[0] = 0;
    look_for_a_while(place, now, std::chrono::microseconds(10));
    EXPECT_EQ(place_of(0), cpus_[0]);
  });
}

}  // namespace
}  // namespace torchfeed::loader
