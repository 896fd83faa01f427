// What happens when a function of parallel_map throws, dies, or cannot send what it returns.
#include <torchfeed/plugin/parallel_map.h>

#include "support/forked_child.h"
#include "support/processes.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <ATen/Parallel.h>

#include <grp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using ::testing::HasSubstr;
using testing::SharedCounter;

const ParallelOptions kHere{.max_workers = 1};
const ParallelOptions kThreads{.max_workers = 2};
const ParallelOptions kProcesses{.max_workers = 2, .use_processes = true};

/// What is thrown as Error when item 7 of 20 calls `fail`.
template <typename Error>
std::string thrown(const std::function<void()>& fail, const ParallelOptions& options) {
  try {
    parallel_map(
        [&](int i) {
          if (i == 7) {
            fail();
          }
          return i;
        },
        std::views::iota(0, 20), options);
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("of another type: ") + error.what();
  }
  return "nothing thrown";
}

TEST(ParallelMapFailure, NamesTheItemAndKeepsTypeAndText) {
  for (const auto& options : {kHere, kThreads, kProcesses}) {
    EXPECT_EQ(thrown<std::out_of_range>([] { throw std::out_of_range("no such bar"); }, options),
              "torchfeed: parallel_map: item 7: no such bar");
    EXPECT_EQ(thrown<std::invalid_argument>([] { throw std::invalid_argument("x"); }, options),
              "torchfeed: parallel_map: item 7: x");
    EXPECT_EQ(thrown<std::bad_alloc>([] { throw std::bad_alloc(); }, options),
              "torchfeed: parallel_map: item 7: std::bad_alloc");
    EXPECT_THAT(thrown<c10::IndexError>([] { TORCH_CHECK_INDEX(false, "bad bar"); }, options),
                ::testing::StartsWith("torchfeed: parallel_map: item 7: bad bar"));
    EXPECT_THAT(thrown<c10::Error>([] { TORCH_CHECK(false, "bad bar"); }, options),
                ::testing::StartsWith("torchfeed: parallel_map: item 7: bad bar"));
    EXPECT_EQ(thrown<WorkerError>([] { throw 42; }, options),
              "torchfeed: parallel_map: item 7: an exception that is no std::exception");
  }
}

/// A type that is known here alone.
struct NoQuote : std::runtime_error {
  explicit NoQuote(std::string symbol) : std::runtime_error("no quote of " + symbol), symbol(std::move(symbol)) {}
  std::string symbol;
};

TEST(ParallelMapFailure, NestsTheOriginalWhereItIsInTheSameProcess) {
  for (const auto& options : {kHere, kThreads}) {
    try {
      parallel_map([](const std::string& symbol) { throw NoQuote(symbol); }, std::vector<std::string>{"A", "B"},
                   options);
      FAIL() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), ::testing::MatchesRegex("torchfeed: parallel_map: item (0|1): no quote of (A|B)"));
      try {
        std::rethrow_if_nested(error);
        FAIL() << "nothing nested";
      } catch (const NoQuote& original) {
        EXPECT_THAT(original.symbol, ::testing::AnyOf("A", "B"));
      }
    }
  }
  EXPECT_EQ(thrown<std::runtime_error>([] { throw NoQuote("A"); }, kProcesses),
            "torchfeed: parallel_map: item 7: no quote of A")
      << "its nearest std type";
}

TEST(ParallelMapFailure, BeginsNothingMoreAfterTheFirstError) {
  // Only when item 0 throws do the others go on, each a chunk: what is done then is what was asked for already.
  constexpr int kItems = 20000;
  for (const auto& options : {kThreads, kProcesses}) {
    SharedCounter thrown_already;
    SharedCounter done;
    auto* flag = &*thrown_already;
    auto* count = &*done;
    ParallelOptions in_ones = options;
    in_ones.chunk_size = 1;
    const auto one = [=](int i) {
      if (i == 0) {
        *flag = 1;
        throw std::runtime_error("first");
      }
      while (*flag == 0) {
      }
      ++*count;
    };
    EXPECT_THROW(parallel_map(one, std::views::iota(0, kItems), in_ones), std::runtime_error);
    EXPECT_LT(*count, kItems / 2);
  }
}

TEST(ParallelMapFailure, StopsWithinAChunkAfterTheFirstError) {
  // Two chunks for two workers; the second would take ten seconds.
  for (const auto& options : {kThreads, kProcesses}) {
    SharedCounter thrown_already;
    SharedCounter done;
    auto* flag = &*thrown_already;
    auto* count = &*done;
    ParallelOptions in_halves = options;
    in_halves.chunk_size = 10000;
    const auto one = [=](int i) {
      if (i == 0) {
        *flag = 1;
        throw std::runtime_error("first");
      }
      while (*flag == 0) {
      }
      const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
      while (std::chrono::steady_clock::now() < until) {
      }
      ++*count;
    };
    EXPECT_THROW(parallel_map(one, std::views::iota(0, 20000), in_halves), std::runtime_error);
    EXPECT_LT(*count, 5000);
  }
}

TEST(ParallelMapFailure, KillsAProcessThatGoesOnAfterTheFirstError) {
  SharedCounter stuck;
  auto* flag = &*stuck;
  const auto one = [=](int i) {
    if (i == 1) {
      *flag = 1;
      for (;;) {
        ::pause();
      }
    }
    while (*flag == 0) {
    }
    throw std::runtime_error("first");
  };
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(parallel_map(one, std::views::iota(0, 2), kProcesses), std::runtime_error);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

class ParallelMapDeaths : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Signals, ParallelMapDeaths, ::testing::Values(SIGKILL, SIGSEGV, SIGABRT, 0));

TEST_P(ParallelMapDeaths, AreAnErrorThatNamesWorkerItemAndWhatIsLost) {
  SharedCounter begun;
  auto* count = &*begun;
  const auto one = [=, how = GetParam()](int i) {
    if (i == 7) {
      ++*count;
      if (how == 0) {
        std::exit(3);
      }
      ::raise(how);
    }
    return i;
  };
  try {
    parallel_map(one, std::views::iota(0, 20), {.max_workers = 2, .use_processes = true, .chunk_size = 5});
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    const std::string how = GetParam() == 0 ? "exited" : "was killed by signal " + std::to_string(GetParam());
    EXPECT_THAT(error.what(), ::testing::StartsWith("torchfeed: parallel_map: item 7: worker " +
                                                    std::to_string(error.worker()) + " " + how));
    EXPECT_THAT(error.what(), ::testing::EndsWith("; no result of items 5 to 9"));
    EXPECT_EQ(error.signal(), GetParam());
    EXPECT_THAT(error.worker(), ::testing::AnyOf(0, 1));
    EXPECT_THAT(error.indices(), ::testing::ElementsAre(5, 6, 7, 8, 9));
  }
  EXPECT_EQ(*count, 1) << "begun again";
}

TEST(ParallelMapFailure, TellsOneDeathOfMany) {
  try {
    parallel_map([](int) { ::raise(SIGKILL); }, std::views::iota(0, 100), kProcesses);
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(error.what(), ::testing::MatchesRegex("torchfeed: parallel_map: item [0-3]: worker [01] was killed by "
                                                      "signal 9 \\(Killed\\); no result of item [0-3]"));
  }
}

/// Threads that take every core from the workers.
class Load {
 public:
  Load() {
    for (unsigned i = 0; i < 2 * std::max(1U, std::thread::hardware_concurrency()); ++i) {
      threads_.emplace_back([this] {
        while (!ended_) {
        }
      });
    }
  }
  ~Load() {
    ended_ = true;
    for (auto& thread : threads_) {
      thread.join();
    }
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

 private:
  std::atomic<bool> ended_{false};
  std::vector<std::thread> threads_;
};

TEST(ParallelMapFailure, NamesTheItemThatKilledWhateverTheOthersDoUnderLoad) {
  const Load load;
  for (int round = 0; round < 20; ++round) {
    try {
      parallel_map(
          [](int i) {
            if (i % 10 == 7) {
              ::raise(SIGKILL);
            }
          },
          std::views::iota(0, 100), {.max_workers = 3, .use_processes = true, .chunk_size = 10});
      FAIL() << "nothing thrown";
    } catch (const WorkerError& error) {
      ASSERT_EQ(error.indices().size(), 10U) << error.what();
      const std::string item = std::to_string(error.indices()[7]);
      ASSERT_THAT(error.what(), ::testing::StartsWith("torchfeed: parallel_map: item " + item + ": worker "));
    }
  }
}

TEST(ParallelMapFailure, TellsOfAProcessThatExitsWhileThreadsOfTheCallersAreNotThere) {
  // LibTorch's inter-op pool is there from now on; in a worker its static destructor would wait for its threads.
  std::promise<void> started;
  at::launch([&] { started.set_value(); });
  started.get_future().wait();
  try {
    parallel_map(
        [](int i) {
          if (i == 7) {
            std::printf("said by item 7\n");
            std::exit(3);
          }
        },
        std::views::iota(0, 20), {.max_workers = 2, .use_processes = true, .chunk_size = 5});
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(error.what(), ::testing::StartsWith("torchfeed: parallel_map: item 7: worker "));
    EXPECT_THAT(error.what(), HasSubstr(" exited; no result of items 5 to 9"));
  }
}

TEST(ParallelMapFailure, TellsWhenNoProcessCanBeForked) {
  const auto said = testing::said_in_a_child([]() -> std::string {
    // Root may fork whatever the limit says. A user of its own has no other processes.
    const auto user = static_cast<uid_t>(200000 + ::getpid());
    if (::setgroups(0, nullptr) != 0 || ::setresgid(user, user, user) != 0 || ::setresuid(user, user, user) != 0) {
      return "skipped";
    }
    const testing::LimitScope limit(RLIMIT_NPROC, 2);  // this process and the fork server
    try {
      parallel_map([](int i) { return i; }, std::views::iota(0, 20), kProcesses);
    } catch (const WorkerError& error) {
      return error.what();
    } catch (const std::exception& error) {
      return std::string("of another type: ") + error.what();
    }
    return "nothing thrown";
  });
  if (said == "skipped") {
    GTEST_SKIP() << "needs a user that has no other processes, and so root";
  }
  EXPECT_THAT(said, ::testing::StartsWith("torchfeed: parallel_map: no worker is left for batch 0, indices [0]: fork "
                                          "failed: "));
}

TEST(ParallelMapFailure, TellsWhenTheForkServerIsDead) {
  const pid_t caller = ::getpid();
  const auto one = [=](int) {
    for (const pid_t server : testing::children_of(caller)) {
      ::kill(server, SIGKILL);
    }
    for (;;) {
      ::pause();
    }
  };
  try {
    parallel_map(one, std::views::iota(0, 10), kProcesses);
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(error.what(), ::testing::MatchesRegex("torchfeed: parallel_map: no worker is left for batch [0-9]+, "
                                                      "indices \\[[0-9]\\]: the fork server died.*"));
  }
}

TEST(ParallelMapFailure, RefusesProcessesForResultsWithoutACodec) {
  struct Quote {
    double bid;
  };
  const auto one = [](int i) { return Quote{static_cast<double>(i)}; };
  EXPECT_EQ(parallel_map(one, std::views::iota(0, 3), kThreads)[2].bid, 2);
  for (const int items : {0, 3}) {  // not only where there would be workers
    try {
      parallel_map(one, std::views::iota(0, items), kProcesses);
      FAIL() << "nothing thrown";
    } catch (const c10::Error& error) {
      EXPECT_STREQ(error.what_without_backtrace(),
                   "parallel_map: use_processes: expected results that can be sent between processes, got a type "
                   "without BatchCodec: specialise torchfeed::BatchCodec<T> for it, or use threads");
    }
  }
}

TEST(ParallelMapFailure, NamesTheItemWhoseResultCannotBeSent) {
  try {
    parallel_map([](int i) { return i == 7 ? torch::eye(3).to_sparse() : torch::eye(3); }, std::views::iota(0, 20),
                 kProcesses);
    FAIL() << "nothing thrown";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), ::testing::StartsWith("torchfeed: parallel_map: item 7: torchfeed: a batch's tensor: "
                                                    "expected layout Strided, got Sparse"));
  }
}

TEST(ParallelMapFailure, RefusesOptionsOutOfRange) {
  const auto message = [](const ParallelOptions& options) -> std::string {
    try {
      parallel_map([](int) {}, std::views::iota(0, 3), options);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "nothing thrown";
  };
  EXPECT_EQ(message({.max_workers = -2}), "ParallelOptions: max_workers: expected -1 to 1024, got -2");
  EXPECT_EQ(message({.max_workers = 1025}), "ParallelOptions: max_workers: expected -1 to 1024, got 1025");
  EXPECT_EQ(message({.chunk_size = -1}), "ParallelOptions: chunk_size: expected at least 0, got -1");
}

}  // namespace
}  // namespace torchfeed
