// How parallel_map cuts its items, and how it tells how far it is. Simulated times.
#include <torchfeed/plugin/loader/chunk_plan.h>
#include <torchfeed/plugin/progress_bar.h>

#include "support/program_run.h"
#include "support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed {
namespace {

using loader::ChunkPlan;
using loader::ItemRange;
using testing::TempDir;

/// One worker does all of it, each item at its cost in seconds, and gives back as ItemDataset does. The sizes that it
/// was asked for.
template <typename Cost>
std::vector<std::size_t> sizes_of(ChunkPlan& plan, std::vector<int>& done, Cost cost) {
  std::vector<std::size_t> sizes;
  const double patience = std::chrono::duration<double>(plan.patience()).count();
  while (const auto asked = plan.next()) {
    sizes.push_back(asked->size());
    double seconds = 0;
    std::size_t item = asked->begin;
    while (item < asked->end && seconds < patience) {
      seconds += cost(item);
      ++done[item++];
    }
    plan.done(*asked, item - asked->begin, seconds);
  }
  return sizes;
}

TEST(ChunkPlan, BeginsWithOneItemAndThenTakesWhatPays) {
  ChunkPlan plan(1000, 2, 0);
  std::vector<int> done(1000);
  const auto sizes = sizes_of(plan, done, [](std::size_t) { return 1e-3; });
  EXPECT_EQ(sizes.front(), 1U);
  EXPECT_EQ(sizes[1], 5U) << "5 ms";
  EXPECT_EQ(sizes.back(), 1U) << "small ones at the end, so that workers end together";
  EXPECT_THAT(done, ::testing::Each(1));
  EXPECT_TRUE(plan.finished());
}

TEST(ChunkPlan, GivesEachWorkerHalfOfItsShareAtMost) {
  ChunkPlan plan(1000, 2, 0);
  std::vector<int> done(1000);
  const auto sizes = sizes_of(plan, done, [](std::size_t) { return 1e-9; });
  EXPECT_EQ(*std::max_element(sizes.begin(), sizes.end()), 249U);
  EXPECT_THAT(done, ::testing::Each(1));
}

TEST(ChunkPlan, AsksAgainForWhatWasGivenBack) {
  ChunkPlan plan(10000, 2, 0);
  std::vector<int> done(10000);
  const auto sizes = sizes_of(plan, done, [](std::size_t item) { return item < 100 ? 1e-9 : 1e-3; });
  EXPECT_THAT(done, ::testing::Each(1));
  EXPECT_TRUE(plan.finished());
  EXPECT_GT(*std::max_element(sizes.begin(), sizes.end()), 1000U) << "was taken for cheap";
  EXPECT_LT(sizes.size(), 3000U);
}

/// So many workers do all of it, two chunks asked for ahead for each of them, as a loader does: seconds until the last
/// item is done.
template <typename Cost>
double seconds_by_workers(ChunkPlan& plan, std::size_t workers, std::vector<int>& done, Cost cost) {
  struct Chunk {
    ItemRange asked;
    std::size_t end = 0;  // of what was made
    double began = 0;
    double ended = 0;
  };
  const double patience = std::chrono::duration<double>(plan.patience()).count();
  std::deque<ItemRange> waiting;
  std::vector<std::optional<Chunk>> at(workers);
  double now = 0;
  for (;;) {
    auto busy = static_cast<std::size_t>(std::count_if(at.begin(), at.end(), [](const auto& c) { return bool(c); }));
    while (waiting.size() + busy < 2 * workers) {
      const auto asked = plan.next();
      if (!asked) break;
      waiting.push_back(*asked);
    }
    for (auto& chunk : at) {
      if (chunk || waiting.empty()) continue;
      chunk = Chunk{waiting.front(), waiting.front().begin, now, now};
      waiting.pop_front();
      while (chunk->end < chunk->asked.end && chunk->ended - now < patience) {
        chunk->ended += cost(chunk->end);
        ++done[chunk->end++];
      }
    }
    auto first = at.end();
    for (auto chunk = at.begin(); chunk != at.end(); ++chunk) {
      if (*chunk && (first == at.end() || (*chunk)->ended < (*first)->ended)) first = chunk;
    }
    if (first == at.end()) return now;
    const Chunk ended = **first;
    first->reset();
    now = ended.ended;
    plan.done(ended.asked, ended.end - ended.asked.begin, ended.ended - ended.began);
  }
}

TEST(ChunkPlan, LetsWorkersEndTogetherWhenTheLastItemsAreTheDearOnes) {
  // Cheap ones make chunks large; what is dear of the last ones is given back and asked for again at once.
  for (const std::size_t workers : {2, 4, 16}) {
    ChunkPlan plan(10000, workers, 0);
    std::vector<int> done(10000);
    const auto cost = [](std::size_t item) { return item < 9600 ? 1e-6 : 5e-3; };
    const double seconds = seconds_by_workers(plan, workers, done, cost);
    const double ideal = (9600 * 1e-6 + 400 * 5e-3) / static_cast<double>(workers);
    EXPECT_THAT(done, ::testing::Each(1));
    EXPECT_TRUE(plan.finished());
    EXPECT_LT(seconds, ideal + 0.03) << workers << " workers: patience and an item at most";
  }
}

TEST(ChunkPlan, AsksAtOnceForWhatIsGivenBackWhileASlowItemIsUnderWay) {
  // Item 0 takes a second; the other worker does all the rest meanwhile, whatever it gives back.
  ChunkPlan plan(1001, 2, 0);
  std::vector<int> done(1001);
  const double seconds =
      seconds_by_workers(plan, 2, done, [](std::size_t item) { return item == 0 ? 1.0 : (item < 900 ? 1e-6 : 9e-3); });
  EXPECT_THAT(done, ::testing::Each(1));
  EXPECT_LT(seconds, 1.03);
}

TEST(ChunkPlan, SaysThatAllIsAskedForUntilSomethingIsGivenBack) {
  ChunkPlan plan(2, 1, 2);
  loader::ChunkSampler sampler(plan);
  EXPECT_FALSE(sampler.ended());
  const auto asked = plan.next();
  EXPECT_TRUE(sampler.ended());
  plan.done(*asked, 1, 1);
  EXPECT_FALSE(sampler.ended());
  EXPECT_EQ(plan.next()->begin, 1U);
  EXPECT_TRUE(sampler.ended());
}

TEST(ChunkPlan, KeepsResultsWithinTheBytesThatAChunkMayHave) {
  ChunkPlan plan(1000, 2, 0);
  plan.set_most_bytes(1000);
  const auto first = plan.next();
  plan.done(*first, 1, 1e-9, 300);
  EXPECT_EQ(plan.next()->size(), 3U);
  plan.done({1, 4}, 3, 1e-9, 3);
  EXPECT_EQ(plan.next()->size(), 3U) << "by the largest";
}

TEST(ItemRange, IsNamedInMessages) {
  EXPECT_EQ((ItemRange{7, 8}.text()), "item 7");
  EXPECT_EQ((ItemRange{5, 10}.text()), "items 5 to 9");
  EXPECT_EQ((ItemRange{5, 5}.text()), "no items");
}

TEST(ChunkPlan, IsNotFinishedWhileSomethingIsAskedFor) {
  ChunkPlan plan(2, 2, 0);
  const auto first = plan.next();
  const auto second = plan.next();
  EXPECT_FALSE(plan.next());
  plan.done(*first, 1, 1);
  EXPECT_FALSE(plan.finished());
  plan.done(*second, 1, 1);
  EXPECT_TRUE(plan.finished());
}

TEST(ChunkPlan, KeepsToAFixedSize) {
  ChunkPlan plan(10, 2, 4);
  std::vector<int> done(10);
  EXPECT_THAT(sizes_of(plan, done, [](std::size_t) { return 1.0; }), ::testing::ElementsAre(4, 4, 2));
  EXPECT_THAT(done, ::testing::Each(1));
}

TEST(ProgressBar, SaysHowMuchHowFastAndHowLong) {
  EXPECT_EQ(ProgressBar::text(512, 1000, 2.5), "[######......] 512/1000 items  51 %  205 items/s  2.4 s left");
  EXPECT_EQ(ProgressBar::text(0, 1000, 2.5), "[............] 0/1000 items   0 %  0.00 items/s");
  EXPECT_EQ(ProgressBar::text(1, 100, 10), "[............] 1/100 items   1 %  0.10 items/s  16:30 min left");
  EXPECT_EQ(ProgressBar::text(1, 1000, 60), "[............] 1/1000 items   0 %  0.02 items/s  16:39 h left");
}

TEST(ProgressBar, TakesMoreThanAllForAll) {
  EXPECT_EQ(ProgressBar::text(5, 4, 1), "[############] 4/4 items 100 %  4.00 items/s  0.0 s left");
  EXPECT_EQ(ProgressBar::text(1, 0, 1), "[############] 0/0 items 100 %  0.00 items/s");
}

TEST(ProgressBar, WritesPlainLinesNowAndThenWhereThereIsNoTerminal) {
  const TempDir dir;
  std::FILE* file = std::fopen(dir.file("out").c_str(), "w");
  const ProgressBar::Clock::time_point begin{};
  {
    ProgressBar bar(1000, file, begin);
    for (int i = 1; i <= 1000; ++i) {
      bar.add(1, begin + i * std::chrono::milliseconds(20));
    }
  }
  std::fclose(file);
  const std::string text = testing::read_text(dir.file("out"));
  EXPECT_THAT(text, ::testing::StartsWith("[#...........] 100/1000 items  10 %  50 items/s  18.0 s left\n"));
  EXPECT_THAT(text, ::testing::EndsWith("\n1000 items in 20.0 s, 50 items/s\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

/// A terminal whose other end can be read.
class Terminal {
 public:
  Terminal() : screen_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    ::grantpt(screen_);
    ::unlockpt(screen_);
    file_ = std::fopen(::ptsname(screen_), "w");
  }
  ~Terminal() {
    std::fclose(file_);
    ::close(screen_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  std::FILE* file() const { return file_; }
  /// What was written since the last time. A mark behind it says that all of it has come.
  std::string seen() const {
    constexpr char kMark = '\a';
    std::fputc(kMark, file_);
    std::fflush(file_);
    std::string text;
    pollfd readable{screen_, POLLIN, 0};
    while (!text.ends_with(kMark) && ::poll(&readable, 1, 5000) == 1) {
      char part[4096];
      const ssize_t length = ::read(screen_, part, sizeof(part));
      if (length <= 0) {
        break;
      }
      text.append(part, static_cast<std::size_t>(length));
    }
    if (text.ends_with(kMark)) {
      text.pop_back();
    }
    return text;
  }

 private:
  int screen_;
  std::FILE* file_;
};

TEST(ProgressBar, DrawsOneLineAnewOnATerminal) {
  const Terminal terminal;
  const ProgressBar::Clock::time_point begin{};
  ProgressBar bar(100, terminal.file(), begin);
  bar.add(10, begin + std::chrono::milliseconds(50));
  bar.add(10, begin + std::chrono::milliseconds(100));
  EXPECT_EQ(terminal.seen(), "\r\033[K[##..........] 20/100 items  20 %  200 items/s  0.4 s left");
  bar.add(80, begin + std::chrono::milliseconds(500));
  EXPECT_EQ(terminal.seen(), "\r\033[K100 items in 0.5 s, 200 items/s\r\n");
}

TEST(ProgressBar, LeavesTheTerminalCleanWhenNotAllWasDone) {
  const Terminal terminal;
  const ProgressBar::Clock::time_point begin{};
  {
    ProgressBar bar(100, terminal.file(), begin);
    bar.add(10, begin + std::chrono::seconds(1));
  }
  EXPECT_THAT(terminal.seen(), ::testing::EndsWith("9.0 s left\r\033[K"));
}

}  // namespace
}  // namespace torchfeed
