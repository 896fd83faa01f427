// The ring alone, in one process: who may make which step, and what becomes of a dead worker's slot.
#include <torchfeed/plugin/loader/slot_ring.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed::loader {
namespace {

constexpr std::uint64_t kBudget = std::uint64_t{8} << 20;

/// A ring on which workers 0 to 7 may work.
struct Ring : SlotRing {
  explicit Ring(std::uint32_t slots, std::uint64_t budget = kBudget, std::uint32_t spins = 0)
      : SlotRing(slots, budget, spins) {
    header().target_workers = 8;
  }
  std::uint32_t post_next(std::uint64_t ticket) {
    const auto index = find_free(0).value();
    post(index, ticket);
    return index;
  }
};

TEST(SlotWord, KeepsStateOwnerAndTicket) {
  const SlotWord word{SlotState::kTaken, 1023, (std::uint64_t{1} << 40) - 1};
  const SlotWord copy = SlotWord::unpack(word.pack());
  EXPECT_EQ(copy.state, SlotState::kTaken);
  EXPECT_EQ(copy.owner, 1023);
  EXPECT_EQ(copy.ticket, (std::uint64_t{1} << 40) - 1);
}

TEST(SlotRing, GivesTheLowestTicketToWhomeverAsksFirst) {
  Ring ring(4);
  ring.post_next(12);
  ring.post_next(10);
  ring.post_next(11);
  std::vector<std::uint64_t> tickets;
  for (const std::uint32_t worker : {5U, 1U, 3U}) {
    const auto index = ring.wait_for_work(worker).value();
    EXPECT_EQ(ring.word(index).state, SlotState::kTaken);
    EXPECT_EQ(ring.word(index).owner, worker);
    tickets.push_back(ring.word(index).ticket);
  }
  EXPECT_EQ(tickets, (std::vector<std::uint64_t>{10, 11, 12}));
}

TEST(SlotRing, GivesRequestsInTheirOrderWhileTheyAreBeingPosted) {
  // Many slots, so that a look at all of them takes a while, and a worker that looks all the time.
  Ring ring(512, kBudget, /*spins=*/~0U);
  constexpr std::uint64_t kBursts = 3000;
  constexpr std::uint64_t kBurst = 3;
  std::atomic<std::uint64_t> done{0};
  std::thread trainer([&] {
    for (std::uint64_t burst = 0; burst < kBursts; ++burst) {
      for (std::uint64_t i = 0; i < kBurst; ++i) {
        ring.post(static_cast<std::uint32_t>(100 * i), burst * kBurst + i);
      }
      for (int turns = 0; done < (burst + 1) * kBurst; ++turns) {
        if (turns > 1000) {
          std::this_thread::yield();
        }
      }
    }
  });
  std::uint64_t misplaced = 0;
  for (std::uint64_t ticket = 0; ticket < kBursts * kBurst; ++ticket) {
    const auto index = ring.wait_for_work(0).value();
    misplaced += ring.word(index).ticket == ticket ? 0 : 1;
    ring.finish(index, SlotState::kDone);
    ring.free(index);
    ++done;
  }
  trainer.join();
  EXPECT_EQ(misplaced, 0U);
}

TEST(SlotRing, KeepsARequestForTheWorkerThatAloneMayMakeIt) {
  Ring ring(4);
  const auto first = ring.find_free(0).value();
  ring.post(first, 0, 3);
  ring.post_next(1);
  EXPECT_EQ(ring.word(ring.wait_for_work(5).value()).ticket, 1U) << "not the older one";
  ASSERT_EQ(ring.wait_for_work(3).value(), first);
  ring.recover(3, SIGKILL);
  ring.post_next(2);
  EXPECT_EQ(ring.word(ring.wait_for_work(5).value()).ticket, 2U) << "it still waits for worker 3";
  EXPECT_EQ(ring.wait_for_work(3).value(), first);
}

TEST(SlotRing, HoldsARequestAndPostsItAgainWithItsTicket) {
  Ring ring(2);
  const auto index = ring.post_next(7);
  ring.wait_for_work(0);
  ring.finish(index, SlotState::kFailed);
  ring.hold(index);
  EXPECT_EQ(ring.find_free(100).value(), index == 0 ? 1U : 0U) << "held is not free, whatever its ticket";
  ring.post_again(index);
  EXPECT_EQ(ring.wait_for_work(1).value(), index);
  EXPECT_EQ(ring.word(index).ticket, 7U);
}

TEST(SlotRing, GivesBackMemoryAndItsCharge) {
  Ring ring(2);
  ring.reserve(0, std::uint64_t{4} << 20);
  EXPECT_GE(ring.charged_bytes(0), std::uint64_t{4} << 20);
  ring.shrink(0, 5000);
  EXPECT_EQ(ring.charged_bytes(0), 8192U);
  EXPECT_EQ(ring.charged_bytes(), 4096U) << "a page of each slot is beside the budget";
  ring.reserve(1, std::uint64_t{7} << 20);
  ring.payload(1)[(std::uint64_t{7} << 20) - 1] = std::byte{1};
}

TEST(SlotRing, TellsMemoryThatOthersHaveFromABatchThatIsTooLarge) {
  Ring ring(2);
  ring.reserve(0, std::uint64_t{6} << 20);
  try {
    ring.reserve(1, std::uint64_t{3} << 20);
    FAIL() << "nothing thrown";
  } catch (const NoMemoryLeft& error) {
    EXPECT_EQ(error.bytes_wanted(), std::uint64_t{3} << 20);
  }
  try {
    ring.reserve(1, std::uint64_t{9} << 20);
    FAIL() << "nothing thrown";
  } catch (const NoMemoryLeft&) {
    FAIL() << "waiting would not help";
  } catch (const c10::Error&) {
  }
}

TEST(SlotRing, SendsWorkersHomeThatAreNotWantedAnyMore) {
  Ring ring(2);
  ring.header().target_workers = 1;
  EXPECT_FALSE(ring.wait_for_work(1).has_value());
  ring.post_next(0);
  EXPECT_TRUE(ring.wait_for_work(0).has_value());
  ring.header().stop = 1;
  EXPECT_FALSE(ring.wait_for_work(0).has_value());
}

TEST(SlotRing, CancelsARequestOnlyBeforeAWorkerHasIt) {
  Ring ring(2);
  const auto first = ring.post_next(0);
  EXPECT_TRUE(ring.cancel(first));
  EXPECT_EQ(ring.word(first).state, SlotState::kFree);
  const auto second = ring.post_next(1);
  ring.wait_for_work(0);
  EXPECT_FALSE(ring.cancel(second));
  EXPECT_EQ(ring.word(second).state, SlotState::kTaken);
}

TEST(SlotRing, ReusesSlotsWhoseResultNobodyWaitsFor) {
  Ring ring(3);
  const auto done = ring.post_next(0);
  const auto posted = ring.post_next(1);
  const auto kept = ring.post_next(2);
  ring.wait_for_work(0);
  ring.finish(done, SlotState::kDone);
  EXPECT_FALSE(ring.find_free(0).has_value());
  EXPECT_EQ(ring.find_free(2), done);
  ring.post(done, 3);
  EXPECT_EQ(ring.find_free(2), posted);
  ring.post(posted, 4);
  EXPECT_FALSE(ring.find_free(2).has_value());
  EXPECT_EQ(ring.word(kept).state, SlotState::kPosted);
}

TEST(SlotRing, GivesADeadWorkersBatchBackUntilItHasKilledTooMany) {
  Ring ring(2);
  const auto index = ring.post_next(7);
  for (std::uint32_t death = 1; death < kMaxDeaths; ++death) {
    ASSERT_EQ(ring.wait_for_work(death), index);
    EXPECT_TRUE(ring.holds_slot(death));
    ring.recover(death, SIGKILL);
    EXPECT_FALSE(ring.holds_slot(death));
    EXPECT_EQ(ring.word(index).state, SlotState::kPosted);
    EXPECT_EQ(ring.word(index).ticket, 7U);
  }
  ring.wait_for_work(6);
  ring.recover(6, SIGSEGV);
  EXPECT_EQ(ring.word(index).state, SlotState::kFailed);
  EXPECT_EQ(ring.slot(index).error.worker, 6);
  EXPECT_EQ(ring.slot(index).error.signal, SIGSEGV);
  ring.free(index);
  ring.post(index, 8);
  EXPECT_EQ(ring.slot(index).deaths, 0U) << "another batch starts anew";
}

TEST(SlotRing, FreesADeadWorkersBatchThatNobodyWaitsFor) {
  Ring ring(2);
  const auto left = ring.post_next(7);
  const auto wanted = ring.post_next(8);
  ring.wait_for_work(3);
  ring.wait_for_work(3);
  ring.header().first_ticket = 8;
  ring.recover(3, SIGKILL);
  EXPECT_EQ(ring.word(left).state, SlotState::kFree);
  EXPECT_EQ(ring.word(wanted).state, SlotState::kPosted);
}

TEST(SlotRing, IsBrokenOnlyByWhatAnswersTheLastCall) {
  Ring ring(1);
  EXPECT_FALSE(ring.is_broken());
  ring.header().broken = 1;
  EXPECT_TRUE(ring.is_broken()) << "the workers that were there from the beginning";
  ring.header().calls = 1;
  EXPECT_FALSE(ring.is_broken());
  ring.header().broken = 2;
  EXPECT_TRUE(ring.is_broken());
}

TEST(SlotRing, LeavesOtherWorkersSlotsAloneWhenOneDies) {
  Ring ring(4);
  ring.post_next(0);
  const auto done = ring.post_next(1);
  ring.wait_for_work(0);
  ring.wait_for_work(1);
  ring.finish(done, SlotState::kDone);
  ring.recover(1, SIGKILL);
  EXPECT_TRUE(ring.has_result(done)) << "finished before its worker died";
  EXPECT_TRUE(ring.holds_slot(0));
}

TEST(SlotRing, WakesASleepingWorkerForEachRequest) {
  Ring ring(8);
  std::atomic<int> made{0};
  std::vector<std::thread> workers;
  for (std::uint32_t id = 0; id < 3; ++id) {
    workers.emplace_back([&ring, &made, id] {
      while (const auto index = ring.wait_for_work(id)) {
        made.fetch_add(1);
        ring.finish(*index, SlotState::kDone);
      }
    });
  }
  // A lost wake is healed after a second; so many rounds would show it.
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint64_t ticket = 0; ticket < 20000; ++ticket) {
    const auto index = ring.post_next(ticket);
    while (!ring.has_result(index)) {
      ring.wait_for_result(index, 0, std::chrono::seconds(1));
    }
    ring.free(index);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  ring.header().stop = 1;
  ring.wake_all_workers();
  for (auto& worker : workers) {
    worker.join();
  }
  EXPECT_EQ(made, 20000);
}

TEST(SlotRing, CommitsMemoryAsItIsNeededAndNoMoreThanTheBudget) {
  Ring ring(4);
  ring.reserve(0, 1 << 20);
  ring.payload(0)[(1 << 20) - 1] = std::byte{1};
  ring.reserve(1, 5 << 20);
  EXPECT_LE(ring.charged_bytes(), kBudget);
  const auto before = ring.charged_bytes();
  EXPECT_THROW(ring.reserve(2, 3 << 20), c10::Error);
  EXPECT_THROW(ring.reserve(2, 9 << 20), c10::Error);
  EXPECT_EQ(ring.charged_bytes(), before) << "a refusal takes nothing";
  ring.reserve(2, 1 << 20);
  ring.reserve(0, 1 << 20);
  EXPECT_LE(ring.charged_bytes(), kBudget);
}

TEST(SlotRing, ReplacesTheChargeOfAWorkerThatDiedWhileItTookMemory) {
  Ring ring(2);
  ring.slot(0).charged = 7 << 20;  // charged, killed before it was committed
  EXPECT_THROW(ring.reserve(1, 3 << 20), c10::Error);
  ring.reserve(0, 1 << 20);
  EXPECT_EQ(ring.charged_bytes(0), 1U << 20);
  ring.reserve(1, 3 << 20);
}

TEST(SlotRing, CommitsLittleMoreThanABatchNeeds) {
  Ring ring(2, std::uint64_t{1} << 30);
  ring.reserve(0, 100 << 20);
  ring.reserve(0, (100 << 20) + 100000);
  EXPECT_LE(ring.charged_bytes(), 102U << 20);
}

TEST(SlotRing, HasWorkersMakeRoomForATrainerThatTheyHaveWokenIfItAskedForThat) {
  const auto now = static_cast<std::uint32_t>(Due::kNow);
  const auto when_woken = static_cast<std::uint32_t>(Due::kWhenWoken);
  Ring ring(2);
  const auto first = ring.post_next(0);
  const auto second = ring.post_next(1);
  ring.wait_for_work(0);
  ring.wait_for_work(1);
  ring.header().trainer_due = when_woken;
  ring.header().awaited = 2;  // as it sleeps until the second has a result
  ring.finish(first, SlotState::kDone);
  EXPECT_EQ(ring.header().trainer_due, when_woken);
  ring.finish(second, SlotState::kDone);
  EXPECT_EQ(ring.header().trainer_due, now);
  ring.wait_for_result(second, 0, std::chrono::milliseconds(1000), 0, Due::kWhenWoken);
  EXPECT_EQ(ring.header().trainer_due, static_cast<std::uint32_t>(Due::kNot)) << "it is there";
}

TEST(SlotRing, WaitsOnWhileThereAreOnlyResultsThatNobodyWantsAnyMore) {
  Ring ring(3);
  const auto stale = ring.post_next(0);
  ring.wait_for_work(0);
  ring.finish(stale, SlotState::kDone);
  const auto begin = std::chrono::steady_clock::now();
  ring.wait_for_result(std::nullopt, 1, std::chrono::milliseconds(50));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(50));
}

TEST(Segment, ReservesAddressesWithoutTakingMemory) {
  const auto resident_pages = [] {
    std::ifstream file("/proc/self/statm");
    long size = 0;
    long resident = 0;
    file >> size >> resident;
    return resident;
  };
  const long before = resident_pages();
  Segment segment(std::size_t{64} << 30);
  EXPECT_EQ(segment.commit(std::size_t{32} << 30, 4096), 0);
  segment.data()[std::size_t{32} << 30] = std::byte{5};
  EXPECT_LT(resident_pages() - before, 1000);
  segment.release(std::size_t{32} << 30, 4096);
  EXPECT_EQ(segment.data()[std::size_t{32} << 30], std::byte{0});
}

}  // namespace
}  // namespace torchfeed::loader
