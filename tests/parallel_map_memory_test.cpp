// Whose memory the results of parallel_map's processes are, and how much of it is shared on the way.
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/parallel_map.h>

#include "support/leftovers.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::SharedCounter;
using ::testing::StartsWith;

constexpr std::size_t kMiB = std::size_t{1} << 20;
const ParallelOptions kProcesses{.max_workers = 2, .use_processes = true};

torch::Tensor filled(std::size_t bytes, int value) {
  return torch::full({static_cast<std::int64_t>(bytes / sizeof(float))}, value, torch::kFloat32);
}

TEST(ParallelMapMemory, OfResultsIsTheCallersAloneWhenTheyAreTheNextCallsItems) {
  auto tensors = parallel_map([](int i) { return torch::full({100}, i); }, std::views::iota(0, 20), kProcesses);
  const auto sums = parallel_map([](torch::Tensor& tensor) { return tensor.add_(1000).sum().item<std::int64_t>(); },
                                 tensors, kProcesses);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(sums[static_cast<std::size_t>(i)], 100 * (i + 1000));
    EXPECT_TRUE(torch::equal(tensors[static_cast<std::size_t>(i)], torch::full({100}, i))) << i;
  }
}

TEST(ParallelMapMemory, OfAKeptResultHoldsNoDescriptor) {
  std::vector<torch::Tensor> kept;
  const auto before = testing::current_resources().descriptors.size();
  for (int call = 0; call < 50; ++call) {
    kept.push_back(
        parallel_map([](int i) { return torch::full({100}, i); }, std::views::iota(0, 2), kProcesses).front());
  }
  EXPECT_EQ(testing::current_resources().descriptors.size(), before);
}

TEST(ParallelMapMemory, OfWhatAnItemHasInPassingIsFreedWithIt) {
  // A gigabyte in all, of which none is a result.
  const auto sums = parallel_map(
      [](int) {
        double sum = 0;
        for (int i = 0; i < 16; ++i) {
          sum += empty_batch({kMiB / sizeof(float)}).fill_(1).sum().item<double>();
        }
        return sum;
      },
      std::views::iota(0, 64),
      {.max_workers = 2, .use_processes = true, .chunk_size = 32, .shared_memory_budget = 4 * kMiB});
  EXPECT_THAT(sums, ::testing::Each(16.0 * kMiB / sizeof(float)));
}

TEST(ParallelMapMemory, OfWhatTheFunctionKeepsFromItemToItemIsNotUsedAgain) {
  const auto kept = parallel_map(
      [](int i) {
        static const torch::Tensor first = empty_batch({1000}).fill_(7);
        const auto other = empty_batch({1000}).fill_(i);
        return first.eq(7).all().item<bool>() && other.eq(i).all().item<bool>();
      },
      std::views::iota(0, 100), {.max_workers = 2, .use_processes = true, .chunk_size = 1});
  EXPECT_THAT(kept, ::testing::Each(true));
}

class ParallelMapBudget : public ::testing::TestWithParam<int> {
 protected:
  /// Maps 20 items, each of them once, by GetParam() workers that have 4 MiB.
  template <typename Fn>
  auto map(Fn fn, std::int64_t chunk_size) {
    SharedCounter begun;
    auto* count = &*begun;
    auto results = parallel_map(
        [=](int i) {
          ++*count;
          return fn(i);
        },
        std::views::iota(0, 20),
        {.max_workers = GetParam(), .use_processes = true, .chunk_size = chunk_size, .shared_memory_budget = 4 * kMiB});
    EXPECT_EQ(*begun, 20) << "begun again";
    return results;
  }
};

INSTANTIATE_TEST_SUITE_P(Workers, ParallelMapBudget, ::testing::Values(1, 2, 4));

TEST_P(ParallelMapBudget, IsEnoughForResultsThatEachFitIntoIt) {
  const auto results = map([](int i) { return filled(5 * kMiB / 2, i); }, 1);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(torch::equal(results[static_cast<std::size_t>(i)], filled(5 * kMiB / 2, i))) << i;
  }
}

TEST_P(ParallelMapBudget, IsEnoughForResultsOfManyPartsThatFillIt) {
  // Two workers that have written half of one each would wait for each other for ever.
  const auto results = map(
      [](int i) {
        std::vector<torch::Tensor> parts;
        for (int part = 0; part < 14; ++part) {
          parts.push_back(filled(kMiB / 4, i + part));
        }
        return std::pair(parts, std::string(kMiB / 8, static_cast<char>('a' + i % 26)));
      },
      1);
  for (int i = 0; i < 20; ++i) {
    const auto& [parts, text] = results[static_cast<std::size_t>(i)];
    ASSERT_EQ(text, std::string(kMiB / 8, static_cast<char>('a' + i % 26)));
    for (int part = 0; part < 14; ++part) {
      ASSERT_TRUE(torch::equal(parts[static_cast<std::size_t>(part)], filled(kMiB / 4, i + part))) << i;
    }
  }
}

TEST_P(ParallelMapBudget, IsEnoughForCheapItemsWithLargeResults) {
  const auto results = map([](int i) { return filled(kMiB / 2, i); }, 0);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(torch::equal(results[static_cast<std::size_t>(i)], filled(kMiB / 2, i))) << i;
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return std::string("of another type: ") + error.what();
  }
  return "nothing thrown";
}

TEST(ParallelMapMemory, AResultThatIsLargerThanTheBudgetIsAnErrorWithItsItemAndBothSizes) {
  const ParallelOptions options{.max_workers = 2, .use_processes = true, .chunk_size = 1, .shared_memory_budget = kMiB};
  const std::string expected =
      "torchfeed: parallel_map: item 7: torchfeed: a batch does not fit into shared memory: expected at most 1048576 "
      "bytes (shared_memory_budget is 1048576), got ";
  EXPECT_THAT(message_of([&] {
                parallel_map([](int i) { return filled(i == 7 ? 2 * kMiB : 4, i); }, std::views::iota(0, 20), options);
              }),
              StartsWith(expected));
  EXPECT_THAT(message_of([&] {
                parallel_map([](int i) { return std::string(i == 7 ? 2 * kMiB : 4, 'x'); }, std::views::iota(0, 20),
                             options);
              }),
              StartsWith(expected))
      << "written at the end, with what else the chunk has";
}

TEST(ParallelMapMemory, IsNoReasonForSmallChunksInThreads) {
  detail::ParallelRun run(100'000, {.max_workers = 2}, true);
  const DataLoaderOptions options = run.start();
  auto loader = make_data_loader(loader::ItemDataset<int>({}, run.job()), loader::ChunkSampler(run.plan()), options);
  run.started(loader->options().shared_memory_budget);
  const auto first = run.plan().next();
  ASSERT_TRUE(first.has_value());
  run.plan().done(*first, 1, 1e-6, 100);
  EXPECT_GT(run.plan().next().value_or(loader::ItemRange{}).size(), 1000U);  // of a microsecond each
}

TEST(ParallelMapMemory, RefusesABudgetThatIsTooSmall) {
  EXPECT_EQ(message_of([] {
              parallel_map([](int i) { return i; }, std::views::iota(0, 3),
                           {.use_processes = true, .shared_memory_budget = 1000});
            }),
            "ParallelOptions: shared_memory_budget: expected 0 or at least 1048576 bytes, got 1000");
}

}  // namespace
}  // namespace torchfeed
