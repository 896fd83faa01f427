// What happens when a function of parallel_map throws, dies, or cannot send what it returns.
#include <torchfeed/plugin/parallel_map.h>

#include "support/processes.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <ranges>
#include <stdexcept>
#include <string>
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
    EXPECT_THAT(thrown<std::bad_alloc>([] { throw std::bad_alloc(); }, options), HasSubstr("item 7: std::bad_alloc"));
    EXPECT_THAT(thrown<c10::IndexError>([] { TORCH_CHECK_INDEX(false, "bad bar"); }, options),
                HasSubstr("torchfeed: parallel_map: item 7: bad bar"));
    EXPECT_THAT(thrown<c10::Error>([] { TORCH_CHECK(false, "bad bar"); }, options), HasSubstr("item 7: bad bar"));
    EXPECT_THAT(thrown<WorkerError>([] { throw 42; }, options), HasSubstr("item 7: an exception that is no std"));
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
  EXPECT_THROW(parallel_map([](int) { ::raise(SIGKILL); }, std::views::iota(0, 100), kProcesses), WorkerError);
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
    EXPECT_THAT(error.what(), HasSubstr("the fork server died"));
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
    EXPECT_THAT(error.what(), HasSubstr("parallel_map: item 7: torchfeed: a batch's tensor: expected layout Strided"));
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
