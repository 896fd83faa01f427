// The memory that a loader's batches may take together, and what happens when they want more.
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"
#include "support/sanitized.h"
#include "support/shared_counter.h"
#include "support/shared_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::gives_both_sizes;
using testing::kSanitized;
using testing::memory_used;
using testing::Sequential;
using testing::SharedCounter;
using testing::TensorDataset;

constexpr std::size_t kMiB = std::size_t{1} << 20;
// A loader that stalls is told from a slow one.
constexpr std::chrono::seconds kStalled{20};

/// A batch [bytes] uint8 in the slot itself, all of it written.
torch::Tensor filled(std::size_t bytes, std::uint8_t value) {
  torch::Tensor tensor = empty_batch({static_cast<std::int64_t>(bytes)}, torch::kUInt8);
  std::memset(tensor.data_ptr(), value, bytes);
  return tensor;
}

// What the loader has beside its batches: its own state, 9 KiB and 4 KiB more for each slot, rounded up to pages of 64
// KiB, and a page of each slot for its request. These tests have at most 32 requests and 12 leases.
constexpr std::size_t kSlots = 32 + 12;
constexpr std::size_t kControlBytes = (9 + 4 * kSlots + 63) / 64 * 64 * 1024 + kSlots * 4096;

std::uint8_t stamp_of(std::size_t index) { return static_cast<std::uint8_t>(index * 37 + 11); }

bool holds_stamp(const torch::Tensor& batch, std::size_t bytes, std::size_t index) {
  const auto* data = batch.data_ptr<std::uint8_t>();
  return static_cast<std::size_t>(batch.numel()) == bytes &&
         std::all_of(data, data + bytes, [stamp = stamp_of(index)](std::uint8_t value) { return value == stamp; });
}

/// Batch i has sizes[i] bytes, every second one in ordinary memory.
TensorDataset sized_dataset(const std::vector<std::size_t>& sizes) {
  return {sizes.size(), [sizes](const std::vector<std::size_t>& indices) {
            const std::size_t index = indices[0];
            return index % 2 == 0
                       ? filled(sizes[index], stamp_of(index))
                       : torch::full({static_cast<std::int64_t>(sizes[index])}, stamp_of(index), torch::kUInt8);
          }};
}

/// One random loader under a budget, all in one value, to be printed.
struct BudgetCase {
  std::uint64_t seed;
  std::size_t budget;
  int workers;
  std::size_t prefetch_factor;
  bool in_order;
  std::size_t kept;  // batches, at most
  std::vector<std::size_t> sizes;
};

std::ostream& operator<<(std::ostream& out, const BudgetCase& c) {
  return out << "seed " << c.seed << ": budget " << c.budget << ", " << c.workers << " workers, prefetch_factor "
             << c.prefetch_factor << ", " << (c.in_order ? "in" : "out of") << " order, " << c.kept << " kept";
}

/// Batches of up to `part` of the budget.
BudgetCase random_budget_case(std::uint64_t seed, double part) {
  std::mt19937_64 random(seed);
  BudgetCase c;
  c.seed = seed;
  c.budget = kMiB + random() % (3 * kMiB);
  c.workers = 1 + static_cast<int>(random() % 4);
  c.prefetch_factor = 1 + random() % 3;
  c.in_order = random() % 2 == 0;
  c.kept = random() % 6;
  const auto most = static_cast<std::uint64_t>(part * static_cast<double>(c.budget)) - 4096;
  for (int i = 0; i < 60; ++i) {
    c.sizes.push_back(1 + random() % most);
  }
  return c;
}

/// Runs an epoch, holding and dropping batches at random, and checks each of them and the memory in use. The errors'
/// texts.
std::vector<std::string> errors_under_budget(const BudgetCase& c) {
  std::mt19937_64 random(c.seed);
  std::vector<std::string> errors;
  std::deque<std::pair<std::size_t, torch::Tensor>> kept;  // by index
  auto loader = make_data_loader<Sequential>(sized_dataset(c.sizes), DataLoaderOptions(1)
                                                                         .num_workers(c.workers)
                                                                         .prefetch_factor(c.prefetch_factor)
                                                                         .in_order(c.in_order)
                                                                         .shared_memory_budget(c.budget)
                                                                         .timeout(kStalled));
  auto iterator = loader->begin();
  std::vector<int> delivered(c.sizes.size(), 0);
  for (bool started = false;;) {
    try {
      if (started) {
        ++iterator;
      }
      if (iterator == loader->end()) {
        break;
      }
      started = true;
      torch::Tensor batch = *iterator;
      *iterator = torch::Tensor();  // the loop's own hold is the only one
      const auto found = std::find_if(delivered.begin(), delivered.end(), [&, i = std::size_t{0}](int count) mutable {
        const std::size_t index = i++;
        return count == 0 && holds_stamp(batch, c.sizes[index], index);
      });
      EXPECT_NE(found, delivered.end()) << "a batch that was not asked for, " << c;
      if (found != delivered.end()) {
        *found = 1;
        kept.emplace_back(static_cast<std::size_t>(found - delivered.begin()), batch);
      }
    } catch (const c10::Error& error) {
      errors.emplace_back(error.what_without_backtrace());
    }
    EXPECT_LE(memory_used(), c.budget + kControlBytes) << c;
    while (kept.size() > c.kept || (!kept.empty() && random() % 4 == 0)) {
      const auto& [index, batch] = kept.front();
      EXPECT_TRUE(holds_stamp(batch, c.sizes[index], index)) << "a batch that was kept has changed, " << c;
      kept.pop_front();
    }
  }
  EXPECT_EQ(static_cast<std::size_t>(std::count(delivered.begin(), delivered.end(), 1)) + errors.size(), c.sizes.size())
      << "each batch comes or fails, " << c;
  return errors;
}

constexpr std::uint64_t kBudgetCases = kSanitized ? 5 : 30;

TEST(LoaderBudget, IsNeverExceededAndEveryBatchComesOrFailsWithBothSizes) {
  for (std::uint64_t seed = 1; seed <= kBudgetCases; ++seed) {
    const BudgetCase c = random_budget_case(seed, 1.2);
    const auto too_large =
        std::count_if(c.sizes.begin(), c.sizes.end(), [&](std::size_t size) { return size > c.budget; });
    const auto errors = errors_under_budget(c);
    EXPECT_GE(static_cast<std::int64_t>(errors.size()), too_large) << c;
    for (const auto& error : errors) {
      EXPECT_TRUE(gives_both_sizes(error, c.budget, *std::min_element(c.sizes.begin(), c.sizes.end())))
          << error << ", " << c;
    }
  }
}

TEST(LoaderBudget, IsEnoughForBatchesOfAQuarterOfItWithOneWorker) {
  for (std::uint64_t seed = 1; seed <= kBudgetCases; ++seed) {
    BudgetCase c = random_budget_case(seed, 0.25);
    c.workers = 1;
    c.prefetch_factor = 1;
    c.kept = 0;
    EXPECT_THAT(errors_under_budget(c), ::testing::IsEmpty()) << c;
  }
}

TEST(LoaderBudget, IsEnoughForEveryBatchThatIsWithinIt) {
  for (std::uint64_t seed = 1; seed <= kBudgetCases; ++seed) {
    BudgetCase c = random_budget_case(seed, 1.0);
    c.kept = 0;
    EXPECT_THAT(errors_under_budget(c), ::testing::IsEmpty()) << c;
  }
}

/// Keeps every batch of an epoch to its end. The sum of what it held, in bytes.
std::size_t hold_every_batch(std::size_t batches, std::size_t bytes, std::size_t budget) {
  auto loader =
      make_data_loader<Sequential>(sized_dataset(std::vector<std::size_t>(batches, bytes)),
                                   DataLoaderOptions(1).num_workers(2).shared_memory_budget(budget).timeout(kStalled));
  std::vector<torch::Tensor> held;
  for (auto& batch : *loader) {
    held.push_back(batch);
    EXPECT_LE(memory_used(), budget + kControlBytes);
  }
  for (std::size_t i = 0; i < held.size(); ++i) {
    EXPECT_TRUE(holds_stamp(held[i], bytes, i)) << "batch " << i;
  }
  EXPECT_GT(loader->stats().copied_batches, 0U);
  return held.size() * bytes;
}

TEST(LoaderBudget, BoundsAndDoesNotStallALoopThatHoldsEveryBatch) {
  EXPECT_EQ(hold_every_batch(1000, 32 * 1024, 2 * kMiB), 1000 * 32 * 1024U);
}

// The held batches would take the whole budget before the loader has run out of leases.
TEST(LoaderBudget, BoundsAndDoesNotStallALoopThatHoldsEveryLargeBatch) {
  EXPECT_EQ(hold_every_batch(50, kMiB / 2, 2 * kMiB), 50 * kMiB / 2);
}

TEST(LoaderBudget, TakesBatchesOfHundredsOfMegabytes) {
  const std::size_t bytes = (kSanitized ? 64 : 400) * kMiB;
  if (static_cast<std::size_t>(::sysconf(_SC_AVPHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) <
      5 * bytes) {
    GTEST_SKIP() << "not enough memory";
  }
  // Three such batches at a time, with max_jobs 1: the loop's last one, its next one, and one that is being made.
  auto loader = make_data_loader<Sequential>(
      sized_dataset({bytes, bytes, bytes}),
      DataLoaderOptions(1).num_workers(1).max_jobs(1).shared_memory_budget(4 * bytes).timeout(kStalled));
  std::size_t seen = 0;
  for (auto& batch : *loader) {
    EXPECT_TRUE(holds_stamp(batch, bytes, seen)) << "batch " << seen;
    ++seen;
  }
  EXPECT_EQ(seen, 3U);
}

TEST(LoaderBudget, IsGivenBackWhenBatchesAreSmallAgain) {
  std::vector<std::size_t> sizes(1000, 4096);
  std::fill_n(sizes.begin(), 4, 32 * kMiB);
  auto loader = make_data_loader<Sequential>(sized_dataset(sizes),
                                             DataLoaderOptions(1).num_workers(2).shared_memory_budget(1024 * kMiB));
  std::size_t peak = 0;
  for (auto& batch : *loader) {
    static_cast<void>(batch);
    peak = std::max(peak, memory_used());
  }
  EXPECT_GT(peak, 32 * kMiB);
  EXPECT_LT(memory_used(), 8 * kMiB);
}

TEST(LoaderBudget, ABatchBeyondTheBudgetIsAnErrorWithBothSizesAndTheNextOnesArrive) {
  std::vector<std::size_t> sizes(10, kMiB);
  sizes[4] = 40 * kMiB;
  for (const std::int64_t workers : {1, 2}) {
    auto loader = make_data_loader<Sequential>(
        sized_dataset(sizes), DataLoaderOptions(1).num_workers(workers).shared_memory_budget(8 * kMiB));
    std::vector<std::size_t> seen;
    std::string message;
    auto iterator = loader->begin();
    for (int i = 0; i < 10; ++i) {
      try {
        if (i > 0) {
          ++iterator;
        }
        seen.push_back(0);
        while (seen.back() < 10 && !holds_stamp(*iterator, sizes[seen.back()], seen.back())) {
          ++seen.back();
        }
      } catch (const c10::Error& error) {
        message = error.what_without_backtrace();
      }
    }
    EXPECT_EQ(seen, (std::vector<std::size_t>{0, 1, 2, 3, 5, 6, 7, 8, 9}));
    EXPECT_THAT(message, ::testing::HasSubstr("batch 4, indices [4]"));
    EXPECT_THAT(message, ::testing::HasSubstr("expected at most 8388608 bytes"));
    EXPECT_THAT(message, ::testing::HasSubstr("41943"));
  }
}

TEST(LoaderBudget, LeavesToTheLoopWithKAutoBatchesThatDoNotFit) {
  auto loader = make_data_loader<Sequential>(TensorDataset(60,
                                                           [](const std::vector<std::size_t>& indices) {
                                                             std::this_thread::sleep_for(std::chrono::milliseconds(2));
                                                             auto batch = torch::zeros({1 << 19}, torch::kInt64);
                                                             batch[0] = static_cast<std::int64_t>(indices[0]);
                                                             return batch;
                                                           }),
                                             DataLoaderOptions(1).num_workers(kAuto).shared_memory_budget(1 << 20));
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::int64_t next = 0;
    for (auto& batch : *loader) {
      ASSERT_EQ(batch[0].item<std::int64_t>(), next++);
    }
    EXPECT_EQ(next, 60);
  }
  EXPECT_EQ(memory_used(), 0U) << "nothing is kept of it";
  EXPECT_EQ(loader->stats().workers, 0);
  ASSERT_EQ(loader->stats().worker_changes.size(), 2U);
  EXPECT_THAT(loader->stats().worker_changes.back().reason, ::testing::HasSubstr("does not fit into shared memory"));
}

// ---- Requests, which take of it too ----

TEST(LoaderBudget, RequestsWaitUntilEarlierOnesHaveBeenAnswered) {
  constexpr std::size_t kIndices = 20'000;  // 160 KB, of which eight are too many
  const auto make = [](const std::vector<std::size_t>& indices) {
    return torch::tensor({static_cast<std::int64_t>(indices[0])});
  };
  auto loader = make_data_loader<Sequential>(
      TensorDataset(30 * kIndices, make),
      DataLoaderOptions(kIndices).num_workers(1).max_jobs(8).shared_memory_budget(kMiB).timeout(kStalled));
  std::int64_t next = 0;
  for (auto& batch : *loader) {
    EXPECT_EQ(batch.item<std::int64_t>(), next);
    next += kIndices;
  }
  EXPECT_EQ(next, static_cast<std::int64_t>(30 * kIndices));
}

/// Asks for batch i with so many indices, all i. An epoch goes on where the one before it was left.
class SizedRequests : public torch::data::samplers::Sampler<> {
 public:
  SizedRequests(std::size_t batches, std::function<std::size_t(std::size_t batch)> size)
      : batches_(batches), size_(std::move(size)) {}
  void reset(torch::optional<std::size_t> /*new_size*/ = {}) override {}
  torch::optional<std::vector<std::size_t>> next(std::size_t /*batch_size*/) override {
    if (next_ == batches_) {
      return {};
    }
    std::vector<std::size_t> indices(size_(next_), next_);
    ++next_;
    return indices;
  }
  void save(torch::serialize::OutputArchive& /*archive*/) const override {}
  void load(torch::serialize::InputArchive& /*archive*/) override {}

 private:
  std::size_t batches_;
  std::function<std::size_t(std::size_t)> size_;
  std::size_t next_ = 0;
};

constexpr std::size_t kLargeRequest = 80'000;  // 640 KB
constexpr std::size_t kLargeBatch = 300'000;

TEST(LoaderBudget, ARequestWaitsForABatchOfAnEpochThatWasLeft) {
  SharedCounter written;
  SharedCounter go;
  const auto make = [&written, &go](const std::vector<std::size_t>& indices) {
    torch::Tensor batch = filled(indices[0] == 0 ? 2 * kLargeBatch : 1, stamp_of(indices[0]));
    if (indices[0] == 0) {
      *written = 1;
      while (*go == 0) {
        std::this_thread::yield();
      }
    }
    return batch;
  };
  auto loader = make_data_loader(
      TensorDataset(2, make), SizedRequests(2, [](std::size_t i) { return i == 1 ? kLargeRequest : 1; }),
      DataLoaderOptions(1).num_workers(1).max_jobs(1).shared_memory_budget(kMiB).timeout(kStalled));
  loader->begin();
  while (*written == 0) {
    std::this_thread::yield();
  }
  auto iterator = loader->begin();
  *go = 1;
  EXPECT_TRUE(holds_stamp(*iterator, 1, 1));
  ++iterator;
  EXPECT_TRUE(iterator == loader->end());
}

TEST(LoaderBudget, ARequestForWhichKeptBatchesLeaveNoRoomIsAnErrorAndTheNextOnesArrive) {
  const auto make = [](const std::vector<std::size_t>& indices) { return filled(kLargeBatch, stamp_of(indices[0])); };
  auto loader = make_data_loader(
      TensorDataset(4, make), SizedRequests(4, [](std::size_t i) { return i == 2 ? kLargeRequest : 1; }),
      DataLoaderOptions(1).num_workers(1).max_jobs(1).shared_memory_budget(kMiB).timeout(kStalled));
  auto iterator = loader->begin();
  const torch::Tensor first = *iterator;
  ++iterator;
  const torch::Tensor second = *iterator;
  try {
    ++iterator;
    FAIL() << "nothing thrown";
  } catch (const c10::Error& error) {
    EXPECT_TRUE(gives_both_sizes(error.what_without_backtrace(), kMiB, 8 * kLargeRequest)) << error.what();
  }
  ++iterator;
  EXPECT_TRUE(holds_stamp(*iterator, kLargeBatch, 3));
  ++iterator;
  EXPECT_TRUE(iterator == loader->end());
  EXPECT_TRUE(holds_stamp(first, kLargeBatch, 0) && holds_stamp(second, kLargeBatch, 1));
}

TEST(LoaderBudget, LeavesToTheLoopWithKAutoRequestsThatDoNotFit) {
  // The loop keeps two large batches that workers have made, which leaves no room for a large request.
  SharedCounter made;
  const auto make = [&made](const std::vector<std::size_t>& indices) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const bool large = worker_info() && (*made).fetch_add(1) < 2;
    return filled(large ? kLargeBatch : 1, stamp_of(indices[0]));
  };
  std::size_t large_batches = 0;
  bool asked = false;
  const auto size = [&](std::size_t /*batch*/) {
    return large_batches == 2 && !std::exchange(asked, true) ? kLargeRequest : 1;
  };
  auto loader = make_data_loader(TensorDataset(100, make), SizedRequests(100, size),
                                 DataLoaderOptions(1).num_workers(kAuto).shared_memory_budget(kMiB));
  std::vector<torch::Tensor> kept;
  for (auto& batch : *loader) {
    kept.push_back(batch);
    large_batches += batch.numel() == static_cast<std::int64_t>(kLargeBatch) ? 1 : 0;
  }
  ASSERT_EQ(kept.size(), 100U);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_TRUE(holds_stamp(kept[i], static_cast<std::size_t>(kept[i].numel()), i)) << "batch " << i;
  }
  EXPECT_TRUE(asked);
  EXPECT_EQ(loader->stats().workers, 0);
  EXPECT_EQ(loader->stats().worker_changes.back().reason, "a request finds no shared memory");
}

}  // namespace
}  // namespace torchfeed
