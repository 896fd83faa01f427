// parallel_map: results in order from any range, by threads, processes and the calling thread.
#include <torchfeed/plugin/parallel_map.h>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <forward_list>
#include <latch>
#include <list>
#include <memory>
#include <ranges>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace torchfeed {

/// A type that its user sends in a way of its own where there are many.
struct Tick {
  int price = 0;
};

template <>
struct BatchCodec<Tick> {
  static void encode(BatchWriter& writer, const Tick& tick) { writer.value(tick.price); }
  static Tick decode(BatchReader& reader) { return {reader.value<int>()}; }
};

template <>
struct BatchCodec<std::vector<Tick>> {
  static void encode(BatchWriter& writer, const std::vector<Tick>& ticks) {
    writer.value(static_cast<int>(ticks.size()));
    for (const Tick& tick : ticks) {
      writer.value(static_cast<std::int64_t>(tick.price));
    }
  }
  static std::vector<Tick> decode(BatchReader& reader) {
    std::vector<Tick> ticks(static_cast<std::size_t>(reader.value<int>()));
    for (Tick& tick : ticks) {
      tick.price = static_cast<int>(reader.value<std::int64_t>());
    }
    return ticks;
  }
};

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SharedCounter;

/// Who does it: no worker, and one thread, is the calling thread.
struct Manner {
  std::int64_t workers;
  bool processes;
};

class ParallelMapBy : public ::testing::TestWithParam<Manner> {
 protected:
  static ParallelOptions options() {
    return {.max_workers = GetParam().workers, .use_processes = GetParam().processes};
  }
};

INSTANTIATE_TEST_SUITE_P(All, ParallelMapBy,
                         ::testing::Values(Manner{0, false}, Manner{1, true}, Manner{2, false}, Manner{5, false},
                                           Manner{2, true}, Manner{3, true}),
                         [](const auto& info) {
                           return (info.param.processes ? "Processes" : "Threads") + std::to_string(info.param.workers);
                         });

int square(int value) { return value * value; }

TEST_P(ParallelMapBy, GivesResultsInTheItemsOrder) {
  const auto results = parallel_map(square, std::views::iota(0, 10000), options());
  ASSERT_EQ(results.size(), 10000U);
  for (int i = 0; i < 10000; ++i) {
    ASSERT_EQ(results[static_cast<std::size_t>(i)], i * i);
  }
}

TEST_P(ParallelMapBy, TakesAnyRange) {
  const auto expected = ElementsAre(1, 4, 9);
  const std::vector<int> vector{1, 2, 3};
  EXPECT_THAT(parallel_map(square, vector, options()), expected);
  EXPECT_THAT(parallel_map(square, std::vector<int>{1, 2, 3}, options()), expected);
  EXPECT_THAT(parallel_map(square, std::span<const int>(vector), options()), expected);
  std::list<int> list{1, 2, 3};
  EXPECT_THAT(parallel_map(square, list, options()), expected);
  EXPECT_THAT(parallel_map(square, std::forward_list<int>{1, 2, 3}, options()), expected);
  EXPECT_THAT(parallel_map(square, std::set<int>{3, 1, 2}, options()), expected);
  const int array[] = {1, 2, 3};
  EXPECT_THAT(parallel_map(square, array, options()), expected);
  EXPECT_THAT(parallel_map(square, std::array<int, 3>{1, 2, 3}, options()), expected);
  EXPECT_THAT(parallel_map(square, {1, 2, 3}, options()), expected);
  const std::initializer_list<int> braces{1, 2, 3};
  EXPECT_THAT(parallel_map(square, braces, options()), expected);
  EXPECT_THAT(parallel_map(square, std::views::iota(1, 4), options()), expected);
  EXPECT_THAT(parallel_map(square, std::views::iota(1) | std::views::take(3), options()), expected);
  EXPECT_THAT(parallel_map(square, list | std::views::filter([](int value) { return value != 2; }), options()),
              ElementsAre(1, 9));
  const auto transformed = vector | std::views::transform([](int value) { return 10 * value; });
  EXPECT_THAT(parallel_map(square, transformed, options()), ElementsAre(100, 400, 900));
  std::istringstream input("1 2 3");
  EXPECT_THAT(parallel_map(square, std::ranges::istream_view<int>(input), options()), expected);
  std::istringstream bits("1 0 1");
  EXPECT_THAT(parallel_map([](bool bit) { return !bit; }, std::ranges::istream_view<bool>(bits), options()),
              ElementsAre(false, true, false));
}

TEST_P(ParallelMapBy, TakesAnythingThatCanBeCalled) {
  struct Trade {
    double price;
    double value(double) const { return price; }
    double size() const { return 2 * price; }
  };
  const std::vector<Trade> trades{{1.5}, {2.5}};
  EXPECT_THAT(parallel_map(&Trade::price, trades, options()), ElementsAre(1.5, 2.5));
  EXPECT_THAT(parallel_map(&Trade::size, trades, options()), ElementsAre(3.0, 5.0));
  const std::function<std::string(const Trade&)> text = [](const Trade& trade) { return std::to_string(trade.price); };
  EXPECT_THAT(parallel_map(text, trades, options()), ElementsAre("1.500000", "2.500000"));
  EXPECT_THAT(parallel_map([](const Trade& trade) -> const double& { return trade.price; }, trades, options()),
              ElementsAre(1.5, 2.5))
      << "a result is a value, not a reference";
}

TEST_P(ParallelMapBy, CallsAFunctionThatReturnsNothingOnceAnItem) {
  std::vector<std::unique_ptr<SharedCounter>> calls(200);
  for (auto& counter : calls) {
    counter = std::make_unique<SharedCounter>();
  }
  static_assert(std::is_void_v<decltype(parallel_map([](int) {}, std::vector<int>()))>);
  parallel_map([&](std::size_t i) { ++**calls[i]; }, std::views::iota(std::size_t{0}, calls.size()), options());
  for (auto& counter : calls) {
    EXPECT_EQ(**counter, 1);
  }
}

TEST_P(ParallelMapBy, SendsTensorsAndNestedResults) {
  const auto results = parallel_map(
      [](int i) {
        return std::tuple(torch::full({2, 3}, i), std::vector<std::string>{std::to_string(i)}, i % 2 == 0);
      },
      std::views::iota(0, 300), options());
  ASSERT_EQ(results.size(), 300U);
  for (int i = 0; i < 300; ++i) {
    const auto& [tensor, texts, even] = results[static_cast<std::size_t>(i)];
    EXPECT_TRUE(torch::equal(tensor, torch::full({2, 3}, i)));
    EXPECT_THAT(texts, ElementsAre(std::to_string(i)));
    EXPECT_EQ(even, i % 2 == 0);
  }
}

TEST_P(ParallelMapBy, GivesBitsOfAVectorOfBool) {
  const auto results = parallel_map([](int i) { return i % 3 == 0; }, std::views::iota(0, 1000), options());
  static_assert(std::is_same_v<decltype(results), const std::vector<bool>>);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(results[static_cast<std::size_t>(i)], i % 3 == 0);
  }
}

TEST_P(ParallelMapBy, TakesNoItemsAndOneItem) {
  EXPECT_THAT(parallel_map(square, std::vector<int>{}, options()), ElementsAre());
  EXPECT_THAT(parallel_map(square, std::vector<int>{7}, options()), ElementsAre(49));
  parallel_map([](int) { FAIL() << "called"; }, std::vector<int>{}, options());
}

TEST_P(ParallelMapBy, DrawsTheSameRandomNumbersForAnItem) {
  const auto draw = [](int i) { return torch::rand({3}, generator()) + i; };
  torch::manual_seed(3);
  const auto expected = parallel_map(draw, std::views::iota(0, 500), {.max_workers = 1});
  torch::manual_seed(3);
  const auto results = parallel_map(draw, std::views::iota(0, 500), options());
  torch::manual_seed(3);
  const auto in_chunks =
      parallel_map(draw, std::views::iota(0, 500),
                   {.max_workers = options().max_workers, .use_processes = options().use_processes, .chunk_size = 7});
  const auto others = parallel_map(draw, std::views::iota(0, 500), options());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(torch::equal(results[i], expected[i])) << i;
    ASSERT_TRUE(torch::equal(in_chunks[i], expected[i])) << i;
    ASSERT_FALSE(torch::equal(others[i], expected[i])) << "another call, other numbers";
    ASSERT_FALSE(i > 0 && torch::equal(results[i] - static_cast<int>(i), results[i - 1] - static_cast<int>(i - 1)));
  }
}

TEST(ParallelMap, DrawsTheSameFromTorchsOwnGeneratorInProcessesAndTheCallingThread) {
  const auto draw = [](int) { return torch::rand({3}); };
  torch::manual_seed(3);
  const auto expected = parallel_map(draw, std::views::iota(0, 100), {.max_workers = 1});
  const auto after = torch::rand({3});
  torch::manual_seed(3);
  const auto results = parallel_map(draw, std::views::iota(0, 100), {.max_workers = 2, .use_processes = true});
  EXPECT_TRUE(torch::equal(torch::rand({3}), after)) << "the caller's own state";
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(torch::equal(results[i], expected[i])) << i;
  }
}

TEST(ParallelMap, SharesItemsAndFunctionBetweenThreadsWithoutCopies) {
  std::vector<std::unique_ptr<int>> items(100);
  std::atomic<int> calls{0};
  parallel_map(
      [&](std::unique_ptr<int>& item) {
        item = std::make_unique<int>(1);
        ++calls;
      },
      items, {.max_workers = 3});
  EXPECT_EQ(calls, 100);
  for (const auto& item : items) {
    ASSERT_NE(item, nullptr);
  }
}

TEST(ParallelMap, MovesResultsBetweenThreads) {
  struct MoveOnly {  // without a codec, and without a default constructor
    explicit MoveOnly(int value) : value(std::make_unique<int>(value)) {}
    std::unique_ptr<int> value;
  };
  const auto results = parallel_map([](int i) { return MoveOnly(i); }, std::views::iota(0, 100), {.max_workers = 3});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(*results[static_cast<std::size_t>(i)].value, i);
  }
}

TEST(ParallelMap, SendsMoveOnlyResultsThatHaveACodecFromProcesses) {
  const auto results = parallel_map([](int i) { return std::make_unique<int>(i); }, std::views::iota(0, 100),
                                    {.max_workers = 2, .use_processes = true});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(*results[static_cast<std::size_t>(i)], i);
  }
}

TEST(ParallelMap, SendsEachResultByItsOwnCodecWhateverAVectorOfThemHas) {
  const auto results =
      parallel_map([](int i) { return Tick{i}; }, std::views::iota(0, 100), {.max_workers = 2, .use_processes = true});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(results[static_cast<std::size_t>(i)].price, i);
  }
}

TEST(ParallelMap, LetsTensorsFromProcessesLiveOn) {
  auto results = parallel_map([](int i) { return torch::full({1000}, i); }, std::views::iota(0, 50),
                              {.max_workers = 2, .use_processes = true});
  for (int i = 0; i < 50; ++i) {
    results[static_cast<std::size_t>(i)] += 1;
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(torch::equal(results[static_cast<std::size_t>(i)], torch::full({1000}, i + 1))) << i;
  }
}

TEST(ParallelMap, ComputesInWorkersAndNotInTheCaller) {
  const pid_t caller = ::getpid();
  const auto pids =
      parallel_map([](int) { return ::getpid(); }, std::views::iota(0, 100), {.max_workers = 2, .use_processes = true});
  for (const pid_t pid : pids) {
    EXPECT_NE(pid, caller);
  }
  const auto threads =
      parallel_map([](int) { return std::this_thread::get_id(); }, std::views::iota(0, 100), {.max_workers = 2});
  for (const auto thread : threads) {
    EXPECT_NE(thread, std::this_thread::get_id());
  }
}

TEST(ParallelMap, StartsNoThreadsForOneWorkerOrOneChunk) {
  const auto here = std::this_thread::get_id();
  for (const ParallelOptions& options : {ParallelOptions{.max_workers = 0}, ParallelOptions{.max_workers = 1},
                                         ParallelOptions{.max_workers = 0, .use_processes = true},
                                         ParallelOptions{.max_workers = 4, .chunk_size = 10}}) {
    parallel_map(
        [&](int) {
          EXPECT_EQ(std::this_thread::get_id(), here);
          EXPECT_FALSE(worker_info());
        },
        std::views::iota(0, 10), options);
  }
  parallel_map([&](int) { EXPECT_EQ(std::this_thread::get_id(), here); }, std::vector<int>{1}, {.max_workers = 4});
}

TEST(ParallelMap, StartsNoMoreWorkersThanThereAreChunks) {
  const auto count = [](int) { return worker_info()->count; };
  EXPECT_THAT(parallel_map(count, std::views::iota(0, 3), {.max_workers = 8}), ElementsAre(3, 3, 3));
  EXPECT_THAT(parallel_map(count, std::views::iota(0, 5), {.max_workers = 8, .use_processes = true, .chunk_size = 3}),
              ElementsAre(2, 2, 2, 2, 2));
}

TEST(ParallelMap, AsksAWorkerForAChunkOfTheGivenSize) {
  // Each of two chunks of 50 waits for the other to begin, so each has a worker of its own.
  std::latch both(2);
  const auto threads = parallel_map(
      [&](int i) {
        if (i % 50 == 0) {
          both.arrive_and_wait();
        }
        return std::this_thread::get_id();
      },
      std::views::iota(0, 100), {.max_workers = 2, .chunk_size = 50});
  for (std::size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(threads[i], threads[i / 50 * 50]) << i;
  }
  EXPECT_NE(threads[0], threads[50]);
}

TEST(ParallelMap, KeepsOrderAndLosesNothingWhenCostsAreUneven) {
  // Cheap items first, so that chunks get large, then dear ones, which workers give back a part of.
  for (const bool processes : {false, true}) {
    const auto results = parallel_map(
        [](int i) {
          const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(i >= 20000 ? 5 : 0);
          while (std::chrono::steady_clock::now() < until) {
          }
          return i;
        },
        std::views::iota(0, 20040), {.max_workers = 2, .use_processes = processes});
    EXPECT_EQ(results.size(), 20040U);
    for (std::size_t i = 0; i < results.size(); ++i) {
      ASSERT_EQ(results[i], static_cast<int>(i));
    }
  }
}

/// How many processes and threads the items of a nested call have, and whether they were done where the outer item is.
bool stays_here(int /*item*/) {
  const auto thread = std::this_thread::get_id();
  const pid_t process = ::getpid();
  for (const bool processes : {false, true}) {
    const auto inner = parallel_map([&](int) { return std::this_thread::get_id() == thread && ::getpid() == process; },
                                    std::views::iota(0, 20), {.max_workers = 4, .use_processes = processes});
    if (std::count(inner.begin(), inner.end(), true) != 20) {
      return false;
    }
  }
  return true;
}

TEST(ParallelMap, RunsInItsWorkerWhenNested) {
  EXPECT_FALSE(stays_here(0)) << "the calling thread may have workers";
  for (const bool processes : {false, true}) {
    const auto inside =
        parallel_map(stays_here, std::views::iota(0, 6), {.max_workers = 2, .use_processes = processes});
    EXPECT_EQ(std::count(inside.begin(), inside.end(), true), 6);
  }
}

TEST(ParallelMap, RunsInALoadersWorker) {
  for (const auto mode : {WorkerMode::kProcess, WorkerMode::kThread}) {
    auto loader = make_data_loader<testing::Sequential>(
        testing::TensorDataset(8, [](const auto&) { return torch::tensor(stays_here(0)); }),
        DataLoaderOptions(2).num_workers(2).worker_mode(mode));
    for (auto& batch : *loader) {
      EXPECT_TRUE(batch.template item<bool>());
    }
  }
}

TEST(ParallelMap, DrawsTheSameInANestedCallWhereverItRuns) {
  const auto outer = [](int) {
    return parallel_map([](int) { return torch::rand({2}, generator()); }, std::views::iota(0, 3))[2];
  };
  torch::manual_seed(5);
  const auto expected = parallel_map(outer, std::views::iota(0, 6), {.max_workers = 1});
  for (const bool processes : {false, true}) {
    torch::manual_seed(5);
    const auto results = parallel_map(outer, std::views::iota(0, 6), {.max_workers = 2, .use_processes = processes});
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(torch::equal(results[i], expected[i])) << i;
    }
  }
}

TEST(ParallelMap, ComputesWithOneThreadInEachWorker) {
  const int before = torch::get_num_threads();
  torch::set_num_threads(4);
  for (const bool processes : {false, true}) {
    const auto counts = parallel_map([](int) { return torch::get_num_threads(); }, std::views::iota(0, 8),
                                     {.max_workers = 2, .use_processes = processes});
    EXPECT_THAT(counts, ::testing::Each(1));
  }
  EXPECT_EQ(torch::get_num_threads(), 4);
  torch::set_num_threads(before);
}

TEST(ParallelMap, MayBeCalledByManyThreadsAtOnce) {
  std::vector<std::thread> callers;
  std::atomic<int> sum{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (const int value : parallel_map(square, std::views::iota(0, 100), {.max_workers = 2})) {
        sum += value;
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(sum, 4 * 328350);
}

TEST(ParallelMap, TellsHowFarItIs) {
  for (const std::int64_t workers : {1, 2}) {
    ::testing::internal::CaptureStderr();
    parallel_map(square, std::views::iota(0, 20), {.max_workers = workers, .show_progress = true});
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::StartsWith("20 items in "));
    ::testing::internal::CaptureStderr();
    parallel_map(square, std::views::iota(0, 20), {.max_workers = workers});
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  }
}

}  // namespace
}  // namespace torchfeed
