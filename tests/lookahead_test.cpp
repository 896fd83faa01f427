// Small batches: how many are asked for ahead, and for which of them the trainer sleeps.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/loader/lookahead.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using loader::Lookahead;
using loader::SlotRing;
using loader::SlotState;
using testing::options_of;
using testing::Sequential;
using testing::SharedCounter;
using testing::TensorDataset;

constexpr std::int64_t kMicrosecond = 1000;

FullDataLoaderOptions full(const DataLoaderOptions& options) { return FullDataLoaderOptions::resolve(options); }

TEST(Lookahead, AsksForAsManyAsTakeAWorkerAWhile) {
  const auto options = full(options_of({2}, 1));
  Lookahead lookahead(options);
  EXPECT_EQ(lookahead.jobs(2), 4U) << "nothing is known";
  lookahead.saw_time(100 * kMicrosecond);
  EXPECT_EQ(lookahead.jobs(2), 8U);
  EXPECT_EQ(lookahead.jobs(1), 4U);
  EXPECT_EQ(lookahead.jobs(0), 0U);
  for (int i = 0; i < 200; ++i) {
    lookahead.saw_time(kMicrosecond);
  }
  EXPECT_EQ(lookahead.jobs(2), 16U);
  EXPECT_EQ(lookahead.jobs(16), 32U) << "in all";
  lookahead.saw_time(1'000'000 * kMicrosecond);
  EXPECT_EQ(lookahead.jobs(2), 16U) << "one that took long tells nothing";
  for (int i = 0; i < 200; ++i) {
    lookahead.saw_time(1000 * kMicrosecond);
  }
  EXPECT_EQ(lookahead.jobs(2), 4U);
}

TEST(Lookahead, LeavesTheNumberThatTheUserGives) {
  const auto options = full(options_of({2}, 1).max_jobs(3));
  Lookahead lookahead(options);
  lookahead.saw_time(kMicrosecond);
  EXPECT_EQ(lookahead.jobs(2), 3U);
}

/// What a trainer with eight requests in flight, of which the first `finished` are done, sleeps for.
std::optional<std::uint32_t> late_of_eight(WorkerMode mode, std::int64_t nanoseconds, std::uint32_t spins,
                                           std::uint32_t finished) {
  const auto options = full(options_of({1, mode}, 1));
  Lookahead lookahead(options);
  lookahead.saw_time(nanoseconds);
  SlotRing ring(8, std::uint64_t{1} << 20, spins);
  ring.header().target_workers = 1;
  std::deque<std::uint32_t> in_flight;
  for (std::uint32_t i = 0; i < 8; ++i) {
    ring.post(i, i);
    in_flight.push_back(i);
  }
  for (std::uint32_t i = 0; i < finished; ++i) {
    ring.finish(*ring.wait_for_work(0), SlotState::kDone);
  }
  return lookahead.late_result(ring, in_flight, 1);
}

TEST(Lookahead, HasTheFirstUnfinishedOneOfTheYoungerHalfWakeTheTrainer) {
  EXPECT_EQ(late_of_eight(WorkerMode::kProcess, kMicrosecond, 0, 0), 4U);
  EXPECT_EQ(late_of_eight(WorkerMode::kProcess, kMicrosecond, 0, 6), 6U);
  EXPECT_EQ(late_of_eight(WorkerMode::kProcess, kMicrosecond, 0, 8), std::nullopt);
  EXPECT_EQ(late_of_eight(WorkerMode::kThread, kMicrosecond, 0, 0), std::nullopt);
  EXPECT_EQ(late_of_eight(WorkerMode::kProcess, kMicrosecond, 100, 0), std::nullopt) << "it looks all the time";
  EXPECT_EQ(late_of_eight(WorkerMode::kProcess, 1000 * kMicrosecond, 0, 0), std::nullopt);
}

std::int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

void wait_until(const std::function<bool()>& done) {
  for (const auto begin = std::chrono::steady_clock::now(); !done(); std::this_thread::yield()) {
    if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(20)) {
      throw std::runtime_error("what was waited for does not come");
    }
  }
}

TEST(DataLoader, HandsOutItsNextBatchWhileTheOneThatWouldHaveWokenItIsSlow) {
  // No core for the trainer to look all the time. One worker is at the first batch, one at the slow one.
  const auto workers = static_cast<int>(std::max<std::size_t>(3, threading::available_cpus().size()));
  const auto ahead = std::min<std::size_t>(8 * workers, 32);
  SharedCounter armed;
  SharedCounter begun;  // of the slow one and of the last that is asked for
  SharedCounter received;
  const auto make = [ahead, &armed = *armed, &begun = *begun, &received = *received](const auto& indices) {
    const std::size_t index = indices[0];
    if (armed != 0) {
      begun += index == ahead / 2 || index == ahead - 1 ? 1 : 0;
      if (index == 0) {
        wait_until([&] { return begun == 2; });
      } else if (index == ahead / 2) {
        wait_until([&] { return received != 0; });
      }
    }
    return torch::full({1}, now(), torch::kInt64);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(200, make), options_of({workers}, 1));
  testing::one_epoch(*loader);  // which tells that batches are small
  *armed = 1;
  std::vector<std::int64_t> delays;
  for (int epoch = 0; epoch < 11; ++epoch) {
    *begun = 0;
    *received = 0;
    auto batch = loader->begin();
    const auto made = batch->item<std::int64_t>();  // has come by then
    delays.push_back(now() - made);
    *received = 1;
    for (; batch != loader->end(); ++batch) {
    }
  }
  std::nth_element(delays.begin(), delays.begin() + 5, delays.end());
  EXPECT_LT(delays[5], 50'000'000) << "nanoseconds; it looks again after 100 ms in any case";
}

}  // namespace
}  // namespace torchfeed
