// Iterators, order, time-outs and exceptions, as torch::data's users know them.
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace torchfeed {
namespace {

using testing::counting;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::indices_tensor;
using testing::kSettings;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::options_of;
using testing::Sequential;
using testing::Setting;
using testing::SharedCounter;
using testing::TensorDataset;

constexpr auto kThread = WorkerMode::kThread;

/// The text of the exception of type Error that `statement` throws.
template <typename Error = c10::Error, typename Statement>
std::string text_of(Statement statement) {
  try {
    statement();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

class Iterators : public ::testing::TestWithParam<Setting> {
 protected:
  /// 5 batches of 4.
  static auto loader() { return make_data_loader<Sequential>(index_dataset(20), options_of(GetParam(), 4)); }
  static std::int64_t first_of(const torch::Tensor& batch) { return batch[0].item<std::int64_t>(); }
};

INSTANTIATE_TEST_SUITE_P(Workers, Iterators, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

// ---- Iterators ----

TEST_P(Iterators, PastTheEndCannotBeUsed) {
  auto loader = Iterators::loader();
  auto iterator = loader->begin();
  for (int i = 0; i < 5; ++i) {
    ++iterator;
  }
  EXPECT_EQ(iterator, loader->end());
  EXPECT_THAT(text_of([&] { ++iterator; }), HasSubstr("Attempted to increment iterator past the end"));
  EXPECT_THAT(text_of([&] { *iterator; }), HasSubstr("Attempted to dereference iterator that was past the end"));
  EXPECT_THAT(text_of([&] { iterator->numel(); }),
              HasSubstr("Attempted to dereference iterator that was past the end"));
  EXPECT_EQ(iterator, loader->end()) << "still";
}

TEST_P(Iterators, OfAnEmptyDatasetAreAtTheEndAtOnce) {
  auto loader = make_data_loader<Sequential>(index_dataset(0), options_of(GetParam(), 4));
  auto iterator = loader->begin();
  EXPECT_EQ(iterator, loader->end());
  EXPECT_THAT(text_of([&] { ++iterator; }), HasSubstr("Attempted to increment iterator past the end"));
}

TEST_P(Iterators, TheSentinelCannotBeUsed) {
  auto loader = Iterators::loader();
  auto end = loader->end();
  EXPECT_THAT(text_of([&] { ++end; }), HasSubstr("Incrementing the DataLoader's past-the-end iterator is not allowed"));
  EXPECT_THAT(text_of([&] { *end; }), HasSubstr("Dereferencing the DataLoader's past-the-end iterator is not allowed"));
}

TEST_P(Iterators, CompareAsTorchDatasDo) {
  auto loader = Iterators::loader();
  EXPECT_TRUE(loader->end() == loader->end());
  auto iterator = loader->begin();
  EXPECT_TRUE(iterator == iterator);
  EXPECT_TRUE(iterator != loader->end());
  EXPECT_TRUE(loader->end() != iterator);
  auto copy = iterator;
  EXPECT_TRUE(copy == iterator);
  ++copy;  // copies share their place
  EXPECT_TRUE(copy == iterator);
  EXPECT_EQ(first_of(*iterator), 4);
  while (copy != loader->end()) {
    ++copy;
  }
  EXPECT_TRUE(iterator == loader->end());
  EXPECT_TRUE(loader->end() == iterator);
  auto next_epoch = loader->begin();
  EXPECT_FALSE(next_epoch == iterator);
  EXPECT_TRUE(next_epoch != loader->end());
}

TEST_P(Iterators, GiveTheSameBatchUntilTheyAreIncremented) {
  auto loader = Iterators::loader();
  auto iterator = loader->begin();
  auto* batch = &*iterator;
  EXPECT_EQ(batch, &*iterator);
  EXPECT_EQ(iterator->sum().item<std::int64_t>(), 0 + 1 + 2 + 3);
  iterator->fill_(9);
  EXPECT_EQ(first_of(*iterator), 9);
  EXPECT_EQ(first_of(*++iterator), 4);
}

TEST_P(Iterators, WorkWithAlgorithms) {
  auto loader = Iterators::loader();
  std::vector<torch::Tensor> batches;
  std::copy(loader->begin(), loader->end(), std::back_inserter(batches));
  EXPECT_TRUE(torch::equal(torch::cat(batches), torch::arange(20)));
  EXPECT_EQ(std::distance(loader->begin(), loader->end()), 5);
  EXPECT_EQ(std::accumulate(loader->begin(), loader->end(), std::int64_t{0},
                            [](std::int64_t sum, const torch::Tensor& batch) { return sum + first_of(batch); }),
            0 + 4 + 8 + 12 + 16);
  EXPECT_EQ(std::count_if(loader->begin(), loader->end(), [](const auto& batch) { return first_of(batch) > 8; }), 2);
  const auto is_third = [](const auto& batch) { return first_of(batch) == 8; };
  EXPECT_TRUE(std::find_if(loader->begin(), loader->end(), is_third) != loader->end());
  EXPECT_EQ(one_epoch_of_indices(*loader).size(), 20U) << "after an epoch that was left early";
}

TEST_P(Iterators, AreOneAtATimeWhileWorkersAreAtWork) {
  auto loader = Iterators::loader();
  auto iterator = loader->begin();
  EXPECT_EQ(first_of(*iterator), 0);
  if (GetParam().workers == 0) {
    EXPECT_EQ(first_of(*loader->begin()), 0);  // a new epoch, as torch::data has it
    return;
  }
  EXPECT_THAT(text_of([&] { loader->begin(); }),
              HasSubstr("Attempted to get a new DataLoader iterator while another iterator is not yet exhausted"));
  EXPECT_EQ(first_of(*++iterator), 4) << "the refusal has disturbed nothing";
  while (first_of(*iterator) != 16) {
    ++iterator;
  }
  EXPECT_EQ(first_of(*loader->begin()), 0) << "the first one has the last batch, though it was not told so";
}

// ---- Sizes, options, ends ----

TEST_P(Iterators, GiveBatchesOfTheSizeAskedForButTheLast) {
  const auto sizes = [](std::size_t samples, std::size_t batch_size, bool drop_last) {
    auto loader =
        make_data_loader<Sequential>(index_dataset(samples), options_of(GetParam(), batch_size).drop_last(drop_last));
    std::vector<std::int64_t> result;
    for (auto& batch : *loader) {
      result.push_back(batch.numel());
    }
    return result;
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(sizes(12, 4, false), ElementsAre(4, 4, 4));
  EXPECT_THAT(sizes(12, 4, true), ElementsAre(4, 4, 4));
  EXPECT_THAT(sizes(14, 4, false), ElementsAre(4, 4, 4, 2));
  EXPECT_THAT(sizes(14, 4, true), ElementsAre(4, 4, 4));
  EXPECT_THAT(sizes(3, 4, false), ElementsAre(3));
  EXPECT_THAT(sizes(3, 4, true), ElementsAre());
  EXPECT_THAT(sizes(3, 1, true), ElementsAre(1, 1, 1));
}

TEST(Options, OfTorchDataAreTakenAndShown) {
  const auto given = torch::data::DataLoaderOptions(7)
                         .workers(2)
                         .max_jobs(5)
                         .timeout(std::chrono::milliseconds(9000))
                         .enforce_ordering(false)
                         .drop_last(true);
  auto loader = make_data_loader(index_dataset(20), given);
  const auto& options = loader->options();
  EXPECT_EQ(options.batch_size, 7U);
  EXPECT_EQ(options.workers, 2U);
  EXPECT_EQ(options.max_jobs, 5U);
  EXPECT_EQ(options.timeout.value(), std::chrono::milliseconds(9000));
  EXPECT_FALSE(options.enforce_ordering);
  EXPECT_TRUE(options.drop_last);
  EXPECT_EQ(one_epoch(*loader).size(), 2U);
}

TEST(Options, HaveTorchDatasDefaults) {
  auto loader = make_data_loader(index_dataset(3));
  const torch::data::FullDataLoaderOptions theirs{torch::data::DataLoaderOptions()};
  EXPECT_EQ(loader->options().batch_size, theirs.batch_size);
  EXPECT_EQ(loader->options().workers, theirs.workers);
  EXPECT_EQ(loader->options().enforce_ordering, theirs.enforce_ordering);
  EXPECT_EQ(loader->options().drop_last, theirs.drop_last);
  EXPECT_FALSE(loader->options().timeout.has_value());
  EXPECT_EQ(one_epoch(*loader).size(), 3U);
  auto with_workers = make_data_loader(index_dataset(3), DataLoaderOptions().num_workers(3));
  EXPECT_EQ(with_workers->options().max_jobs, 6U);
  auto by_size_alone = make_data_loader<Sequential>(index_dataset(20), 8);
  EXPECT_EQ(by_size_alone->options().batch_size, 8U);
}

TEST_P(Iterators, EndWithTheirLoadersJoinWhichMayBeCalledTwice) {
  for (const bool in_mid_epoch : {false, true}) {
    auto loader = Iterators::loader();
    auto iterator = loader->begin();
    while (!in_mid_epoch && iterator != loader->end()) {
      ++iterator;
    }
    const torch::Tensor kept = in_mid_epoch ? *iterator : torch::arange(4);
    loader->join();
    loader->join();
    EXPECT_EQ(kept.sum().item<std::int64_t>(), 6);
    if (GetParam().workers == 0) {
      EXPECT_EQ(one_epoch(*loader).size(), 5U) << "there was nothing to join";
    } else {
      EXPECT_THAT(text_of([&] { loader->begin(); }), HasSubstr("join() was called"));
    }
    if (in_mid_epoch) {
      EXPECT_THAT(text_of([&] { ++iterator; }), HasSubstr("join() was called"));
    }
  }
}

// ---- Order and time ----

TEST_P(Iterators, KeepTheSamplersOrderWhateverIsDoneFirst) {
  if (GetParam().workers < 2) {
    GTEST_SKIP() << "one worker makes one batch after the other";
  }
  // Each even batch is made only when the one after it is done.
  SharedCounter done;
  const auto make = [done = &*done](const std::vector<std::size_t>& indices) {
    const auto batch = static_cast<int>(indices[0] / 4);
    while (batch % 2 == 0 && (done->load() & (1 << (batch + 1))) == 0) {
      std::this_thread::yield();
    }
    done->fetch_or(1 << batch);
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(48, make), options_of(GetParam(), 4));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(48));
}

TEST_P(Iterators, LoseNothingWithoutOrder) {
  auto loader = make_data_loader<Sequential>(index_dataset(403), options_of(GetParam(), 4).enforce_ordering(false));
  for (int epoch = 0; epoch < 2; ++epoch) {
    auto indices = one_epoch_of_indices(*loader);
    std::sort(indices.begin(), indices.end());
    EXPECT_EQ(indices, counting(403));
  }
}

TEST_P(Iterators, TellATimeOutAndWaitAgainIfAsked) {
  if (GetParam().workers == 0) {
    GTEST_SKIP() << "nobody waits";
  }
  SharedCounter open;
  const auto make = [open = &*open](const std::vector<std::size_t>& indices) {
    while (open->load() == 0) {
      std::this_thread::yield();
    }
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(20, make),
                                             options_of(GetParam(), 4).timeout(std::chrono::milliseconds(10)));
  auto iterator = loader->begin();
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(text_of<std::exception>([&] { *iterator; }),
                HasSubstr("Timeout in DataLoader queue while waiting for next batch (timeout was 10 ms)"));
  }
  *open = 1;
  std::string text;
  do {  // on a busy machine 10 ms are not much
    text = text_of<std::exception>([&] { *iterator; });
  } while (text != "nothing thrown");
  EXPECT_EQ(first_of(*iterator), 0);
}

// ---- Exceptions ----

/// 5 batches of 4; batch 2 throws what `fail` throws.
template <typename Fail>
auto failing_loader(const Setting& setting, Fail fail) {
  const auto make = [fail](const std::vector<std::size_t>& indices) {
    if (indices[0] == 8) {
      fail();
    }
    return indices_tensor(indices);
  };
  return make_data_loader<Sequential>(TensorDataset(20, make), options_of(setting, 4));
}

/// Takes the two batches before the one that fails, and increments the iterator.
template <typename Iterator>
void increment_to_failure(Iterator& iterator) {
  EXPECT_EQ((*iterator)[0].template item<std::int64_t>(), 0);
  ++iterator;
  ++iterator;
}

TEST_P(Iterators, ThrowWhatADatasetThrowsAndGoOn) {
  auto loader = failing_loader(GetParam(), [] { throw std::out_of_range("row 8 is missing"); });
  for (int epoch = 0; epoch < 2; ++epoch) {
    auto iterator = loader->begin();
    const auto fail = [&] { increment_to_failure(iterator); };
    if (GetParam().workers == 0) {
      EXPECT_EQ(text_of<std::out_of_range>(fail), "row 8 is missing");
    } else if (GetParam().mode == kThread) {
      try {
        fail();
        ADD_FAILURE() << "nothing thrown";
      } catch (const torch::data::WorkerException& error) {
        EXPECT_STREQ(error.what(), "Caught exception in DataLoader worker thread. Original message: row 8 is missing");
        EXPECT_EQ(text_of<std::out_of_range>([&] { std::rethrow_exception(error.original_exception); }),
                  "row 8 is missing");
        const auto* place = dynamic_cast<const ThreadWorkerError*>(&error);
        ASSERT_NE(place, nullptr);
        EXPECT_EQ(place->batch(), 2U);
        EXPECT_LT(place->worker(), GetParam().workers);
        EXPECT_THAT(place->indices(), ::testing::ElementsAre(8, 9, 10, 11));
      }
    } else {
      EXPECT_THAT(
          text_of<std::out_of_range>(fail),
          ::testing::MatchesRegex("torchfeed: worker [0-4], batch 2, indices .8, 9, 10, 11.: row 8 is missing"));
    }
    EXPECT_EQ(first_of(*++iterator), 12) << "goes on with the next batch";
    EXPECT_EQ(first_of(*++iterator), 16);
    ++iterator;
    EXPECT_EQ(iterator, loader->end());
  }
}

TEST_P(Iterators, ThrowEvenWhatIsNoException) {
  auto loader = failing_loader(GetParam(), [] { throw 42; });  // NOLINT(hicpp-exception-baseclass)
  auto iterator = loader->begin();
  const auto fail = [&] { increment_to_failure(iterator); };
  if (GetParam().workers == 0) {
    EXPECT_THROW(fail(), int);
  } else if (GetParam().mode == kThread) {
    try {
      fail();
      ADD_FAILURE() << "nothing thrown";
    } catch (const torch::data::WorkerException& error) {
      EXPECT_THAT(error.what(), ::testing::StartsWith("Caught exception in DataLoader worker thread."));
      try {
        std::rethrow_exception(error.original_exception);
      } catch (const int number) {
        EXPECT_EQ(number, 42);
      }
    }
  } else {
    try {
      fail();
      ADD_FAILURE() << "nothing thrown";
    } catch (const WorkerError& error) {
      EXPECT_THAT(error.what(), HasSubstr("no std::exception"));
      EXPECT_EQ(error.batch(), 2U);
      EXPECT_EQ(error.signal(), 0);
      EXPECT_THAT(error.indices(), ::testing::ElementsAre(8, 9, 10, 11));
    }
  }
  EXPECT_EQ(first_of(*++iterator), 12);
}

TEST_P(Iterators, ThrowFromTheFirstBatchAndFromEveryBatch) {
  const auto make = [](const std::vector<std::size_t>& indices) -> torch::Tensor {
    throw std::runtime_error("batch " + std::to_string(indices[0] / 4));
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(12, make), options_of(GetParam(), 4));
  auto iterator = loader->begin();
  // The first batch is fetched when it is asked for; after its exception the iterator has none yet and fetches again.
  EXPECT_THAT(text_of<std::exception>([&] { *iterator; }), HasSubstr("batch 0"));
  EXPECT_THAT(text_of<std::exception>([&] { *iterator; }), HasSubstr("batch 1"));
  EXPECT_THAT(text_of<std::exception>([&] { *iterator; }), HasSubstr("batch 2"));
  EXPECT_EQ(iterator, loader->end());
}

}  // namespace
}  // namespace torchfeed
