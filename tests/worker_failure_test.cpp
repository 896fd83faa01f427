// What happens when something goes wrong: exceptions, deaths of every party, time-outs, limits.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include "support/loader_datasets.h"
#include "support/processes.h"
#include "support/shared_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fcntl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using testing::counting;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::indices_tensor;
using testing::one_epoch;
using testing::one_epoch_of_indices;
using testing::Sequential;
using testing::SharedCounter;
using testing::TensorDataset;

/// Batches of 10 out of 100; batch 3 calls `fail`.
template <typename Fail>
TensorDataset failing_dataset(Fail fail) {
  return {100, [fail](const std::vector<std::size_t>& indices) {
            if (indices[0] == 30) {
              fail();
            }
            return indices_tensor(indices);
          }};
}

/// Runs an epoch in which one batch fails; the text of the exception of type Error.
template <typename Error, typename Fail>
std::string error_in_an_epoch(Fail fail, int workers) {
  auto loader = make_data_loader<Sequential>(failing_dataset(fail), DataLoaderOptions(10).num_workers(workers));
  std::string message;
  std::vector<std::int64_t> seen;
  auto iterator = loader->begin();
  for (int i = 0; i < 10; ++i) {
    try {
      if (i == 0 ? iterator == loader->end() : (++iterator, iterator == loader->end())) {
        break;
      }
      seen.push_back((*iterator)[0].template item<std::int64_t>());
    } catch (const Error& error) {
      message = error.what();
    }
  }
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 10, 20, 40, 50, 60, 70, 80, 90})) << "the loader goes on";
  return message;
}

TEST(WorkerFailure, CarriesAnExceptionWithItsTypeTextWorkerBatchAndIndices) {
  const auto message = error_in_an_epoch<std::out_of_range>([] { throw std::out_of_range("no such bar"); }, 1);
  EXPECT_EQ(message, "torchfeed: worker 0, batch 3, indices [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]: no such bar");
}

TEST(WorkerFailure, KeepsStandardAndC10Types) {
  const auto text = HasSubstr("batch 3");
  EXPECT_THAT(error_in_an_epoch<std::invalid_argument>([] { throw std::invalid_argument("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::domain_error>([] { throw std::domain_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::length_error>([] { throw std::length_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::logic_error>([] { throw std::logic_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::range_error>([] { throw std::range_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::overflow_error>([] { throw std::overflow_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::underflow_error>([] { throw std::underflow_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::runtime_error>([] { throw std::runtime_error("x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<std::bad_alloc>([] { throw std::bad_alloc(); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<c10::IndexError>([] { TORCH_CHECK_INDEX(false, "x"); }, 2), text);
  EXPECT_THAT(error_in_an_epoch<c10::Error>([] { TORCH_CHECK(false, "bad bar"); }, 2), HasSubstr("bad bar"));
}

TEST(WorkerFailure, CarriesWhateverIsThrown) {
  EXPECT_THAT(error_in_an_epoch<WorkerError>([] { throw 42; }, 2), HasSubstr("no std::exception"));  // NOLINT
  EXPECT_THAT(error_in_an_epoch<WorkerError>([] { throw std::exception(); }, 2), HasSubstr("std::exception"));
  const std::string long_text(100000, 'x');
  EXPECT_THAT(error_in_an_epoch<std::runtime_error>([&] { throw std::runtime_error(long_text); }, 1),
              HasSubstr("xxxxx"));
}

TEST(WorkerFailure, FailsBatchesWithTheReasonWhyAWorkerCouldNotStart) {
  auto loader = make_data_loader<Sequential>(
      index_dataset(10),
      DataLoaderOptions(10).num_workers(1).worker_init_fn([](int) { throw std::runtime_error("no licence"); }));
  try {
    one_epoch(*loader);
    FAIL() << "nothing thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("no licence"));
  }
}

class Deaths : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Signals, Deaths, ::testing::Values(SIGKILL, SIGSEGV, SIGABRT, 0));

void die(int how) {
  if (how == 0) {
    std::_Exit(3);
  }
  ::raise(how);
}

TEST_P(Deaths, OfOneWorkerCostNoBatch) {
  SharedCounter deaths;
  auto* counter = &*deaths;
  for (const bool in_order : {true, false}) {
    *counter = 0;
    auto loader = make_data_loader<Sequential>(failing_dataset([counter, how = GetParam()] {
                                                 if (counter->fetch_add(1) == 0) {
                                                   die(how);
                                                 }
                                               }),
                                               DataLoaderOptions(10).num_workers(2).in_order(in_order));
    auto indices = one_epoch_of_indices(*loader);
    std::sort(indices.begin(), indices.end());
    EXPECT_EQ(indices, counting(100));
    EXPECT_EQ(*counter, 2);
    EXPECT_EQ(loader->stats().worker_restarts, 1U);
    EXPECT_EQ(one_epoch(*loader).size(), 10U) << "and the next epoch";
  }
}

TEST_P(Deaths, OfEveryWorkerThatTakesABatchEndInAWorkerErrorThatNamesIt) {
  auto loader = make_data_loader<Sequential>(failing_dataset([how = GetParam()] { die(how); }),
                                             DataLoaderOptions(10).num_workers(2));
  auto iterator = loader->begin();
  ++iterator;
  ++iterator;
  try {
    ++iterator;
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.batch(), 3U);
    EXPECT_EQ(error.indices().front(), 30U);
    EXPECT_EQ(error.indices().size(), 10U);
    EXPECT_EQ(error.signal(), GetParam());
    EXPECT_THAT(error.worker(), ::testing::AnyOf(0, 1));
    EXPECT_THAT(error.what(), HasSubstr("batch 3"));
  }
  ++iterator;
  EXPECT_EQ((*iterator)[0].item<std::int64_t>(), 40);
}

TEST(WorkerFailure, EndsWhenRestartsAreUsedUp) {
  auto loader = make_data_loader<Sequential>(TensorDataset(100,
                                                           [](const std::vector<std::size_t>&) -> torch::Tensor {
                                                             ::raise(SIGKILL);
                                                             return {};
                                                           }),
                                             DataLoaderOptions(10).num_workers(1).max_worker_restarts(1));
  try {
    one_epoch(*loader);
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(error.what(), HasSubstr("1 of them were replaced, as many as max_worker_restarts allows"));
  }
}

TEST(WorkerFailure, WithoutRestartsEndsAnEpochAndNotTheNextOne) {
  SharedCounter deadly;
  const auto make = [counter = &*deadly](const std::vector<std::size_t>& indices) {
    if (counter->load() != 0) {
      ::raise(SIGKILL);
    }
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(
      TensorDataset(20, make), DataLoaderOptions(10).num_workers(1).max_worker_restarts(0).persistent_workers(false));
  for (int i = 0; i < 8; ++i) {
    *deadly = 1;
    EXPECT_THROW(one_epoch(*loader), WorkerError);
    *deadly = 0;
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(20));
  }
}

TEST(WorkerFailure, TellsWhenAWorkerHangs) {
  auto loader =
      make_data_loader<Sequential>(failing_dataset([] { ::raise(SIGSTOP); }),
                                   DataLoaderOptions(10).num_workers(1).timeout(std::chrono::milliseconds(2000)));
  auto iterator = loader->begin();
  ++iterator;
  ++iterator;
  try {
    ++iterator;
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(
        error.what(),
        HasSubstr("Timeout in DataLoader queue while waiting for next batch (timeout was 2000 ms): worker 0, batch 3"));
    EXPECT_EQ(error.batch(), 3U);
  }
}

TEST(WorkerFailure, TellsWhenTheForkServerIsDead) {
  auto loader = make_data_loader<Sequential>(failing_dataset([] { ::pause(); }), DataLoaderOptions(10).num_workers(1));
  auto iterator = loader->begin();
  ++iterator;
  ++iterator;
  const auto children = testing::children_of(::getpid());
  ASSERT_EQ(children.size(), 1U);
  const auto workers = testing::children_of(children[0]);
  ::kill(children[0], SIGKILL);
  try {
    ++iterator;
    FAIL() << "nothing thrown";
  } catch (const WorkerError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the fork server died"));
    EXPECT_EQ(error.batch(), 3U);
  }
  loader.reset();
  EXPECT_TRUE(testing::all_end(workers));
}

TEST(WorkerFailure, EndsBusyWorkersWithTheLoader) {
  auto loader = make_data_loader<Sequential>(TensorDataset(10,
                                                           [](const std::vector<std::size_t>&) -> torch::Tensor {
                                                             for (;;) {
                                                               ::pause();
                                                             }
                                                           }),
                                             DataLoaderOptions(1).num_workers(2));
  loader->begin();
  const auto begin = std::chrono::steady_clock::now();
  loader.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

/// A trainer of its own process: makes a loader, takes two batches, writes the ids of its children, and waits.
[[noreturn]] void run_trainer(int out) {
  auto loader = make_data_loader<Sequential>(index_dataset(1000), DataLoaderOptions(10).num_workers(3));
  auto iterator = loader->begin();
  ++iterator;
  std::vector<pid_t> pids = testing::children_of(::getpid());
  std::vector<pid_t> workers;
  while (workers.size() < 3) {
    workers = testing::children_of(pids.at(0));
  }
  pids.insert(pids.end(), workers.begin(), workers.end());
  static_cast<void>(!::write(out, pids.data(), pids.size() * sizeof(pid_t)));
  for (;;) {
    ::pause();
  }
}

TEST(WorkerFailure, LeavesNothingWhenTheTrainerIsKilled) {
  for (const int signal : {SIGKILL, SIGABRT, SIGTERM}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const pid_t trainer = ::fork();
    if (trainer == 0) {
      run_trainer(ends[1]);
    }
    ::close(ends[1]);
    std::vector<pid_t> pids(4);
    EXPECT_EQ(::read(ends[0], pids.data(), pids.size() * sizeof(pid_t)),
              static_cast<ssize_t>(pids.size() * sizeof(pid_t)));
    ::close(ends[0]);
    ::kill(trainer, signal);
    ::waitpid(trainer, nullptr, 0);
    EXPECT_TRUE(testing::all_end(pids)) << "signal " << signal;
  }
}

TEST(WorkerFailure, WorkersOutliveTheThreadThatMadeTheLoader) {
  std::unique_ptr<DataLoader<TensorDataset, Sequential>> loader;
  std::thread([&] {
    loader = make_data_loader<Sequential>(index_dataset(1000), DataLoaderOptions(10).num_workers(2));
  }).join();
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(1000));
  EXPECT_EQ(loader->stats().worker_restarts, 0U);
}

TEST(WorkerFailure, ASignalToTheWholeGroupReachesTheTrainerOnly) {
  auto loader = make_data_loader<Sequential>(index_dataset(1000), DataLoaderOptions(10).num_workers(2));
  one_epoch(*loader);
  const auto server = testing::children_of(::getpid());
  ASSERT_EQ(server.size(), 1U);
  for (const pid_t worker : testing::children_of(server[0])) {
    ::kill(worker, SIGINT);
    ::kill(worker, SIGTERM);
  }
  ::kill(server[0], SIGINT);
  ::kill(server[0], SIGTERM);
  EXPECT_EQ(one_epoch(*loader).size(), 100U);
  EXPECT_EQ(loader->stats().worker_restarts, 0U);
}

TEST(WorkerFailure, AForkOfTheTrainerCannotHarmTheLoader) {
  auto loader = make_data_loader<Sequential>(index_dataset(100), DataLoaderOptions(10).num_workers(1));
  auto iterator = loader->begin();
  torch::Tensor batch = *iterator;
  const pid_t child = ::fork();
  if (child == 0) {
    batch = torch::Tensor();
    try {
      ++iterator;
    } catch (const c10::Error&) {
      loader.reset();
      std::_Exit(17);
    }
    std::_Exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 17);
  EXPECT_EQ(batch[9].item<std::int64_t>(), 9);
  std::int64_t batches = 0;
  for (; iterator != loader->end(); ++iterator) {
    EXPECT_EQ((*iterator)[0].item<std::int64_t>(), 10 * batches++);
  }
  EXPECT_EQ(batches, 10);
}

TEST(WorkerFailure, ATimerOfTheTrainersDisturbsNothing) {
  // Every system call of the trainer's is interrupted again and again.
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGALRM, &action, &before), 0);
  const itimerval timer{{0, 100}, {0, 100}};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &timer, nullptr), 0);
  const auto make = [](const std::vector<std::size_t>& indices) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return indices_tensor(indices);
  };
  {
    auto loader = make_data_loader<Sequential>(TensorDataset(300, make), DataLoaderOptions(10).num_workers(1));
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(300));
    EXPECT_EQ(loader->stats().worker_restarts, 0U);
  }
  const itimerval off{};
  ::setitimer(ITIMER_REAL, &off, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
}

TEST(WorkerFailure, ATrainerThatIgnoresItsChildrenCanUseLoaders) {
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  {
    SharedCounter deaths;
    auto loader = make_data_loader<Sequential>(failing_dataset([counter = &*deaths] {
                                                 if (counter->fetch_add(1) == 0) {
                                                   die(SIGKILL);
                                                 }
                                               }),
                                               DataLoaderOptions(10).num_workers(1));
    EXPECT_EQ(one_epoch_of_indices(*loader), counting(100));
    EXPECT_EQ(loader->stats().worker_restarts, 1U);
  }
  ::signal(SIGCHLD, before);
}

TEST(WorkerFailure, WorkersThatAreStuckDoNotKeepAnEpochFromEnding) {
  SharedCounter stuck;
  const auto make = [counter = &*stuck](const std::vector<std::size_t>& indices) {
    if (indices[0] == 10 && counter->fetch_add(1) == 0) {
      ::raise(SIGSTOP);
    }
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(40, make),
                                             DataLoaderOptions(10).num_workers(2).persistent_workers(false));
  loader->begin();
  while (*stuck == 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(40));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(40));
}

TEST(WorkerFailure, TellsInsteadOfEndingTheEpochWhenNoSlotIsLeft) {
  // Both workers stop in an epoch that is left early; all other slots are kept.
  SharedCounter stop;
  const auto make = [flag = &*stop](const std::vector<std::size_t>& indices) {
    if (flag->load() != 0) {
      ::raise(SIGSTOP);
    }
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(
      TensorDataset(1000, make),
      DataLoaderOptions(10).num_workers(2).max_jobs(2).timeout(std::chrono::milliseconds(2000)));
  std::vector<torch::Tensor> kept;
  auto iterator = loader->begin();
  for (; kept.size() < 4; ++iterator) {
    kept.push_back(*iterator);
  }
  *stop = 1;
  iterator = loader->end();
  EXPECT_THROW(
      {
        for (int epoch = 0; epoch < 4; ++epoch) {
          auto next = loader->begin();
          next == loader->end();
        }
      },
      WorkerError);
}

TEST(WorkerFailure, PrintsNothingTwice) {
  // A program of its own, with buffered output when the workers are forked.
  const std::string path = ::testing::TempDir() + "torchfeed_printed_" + std::to_string(::getpid());
  std::cout.flush();
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    const int file = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    ::dup2(file, STDOUT_FILENO);
    std::ios::sync_with_stdio(false);
    std::cout << "once\n";
    std::printf("and once\n");
    {
      auto loader = make_data_loader<Sequential>(index_dataset(100), DataLoaderOptions(10).num_workers(2));
      one_epoch(*loader);
    }
    std::cout.flush();
    std::fflush(stdout);
    std::_Exit(0);
  }
  ::waitpid(child, nullptr, 0);
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
  }
  EXPECT_THAT(lines, ::testing::UnorderedElementsAre("once", "and once"));
  std::filesystem::remove(path);
}

TEST(WorkerFailure, UsesAConstantNumberOfDescriptors) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  auto loader = make_data_loader<Sequential>(index_dataset(20000), DataLoaderOptions(10).num_workers(2));
  auto iterator = loader->begin();
  ++iterator;
  const auto before = descriptors();
  for (; iterator != loader->end(); ++iterator) {
  }
  EXPECT_EQ(descriptors(), before);
}

TEST(WorkerFailure, WorkersComputeOnOneThreadBesideATrainerWithPools) {
  // The trainer's OpenMP, BLAS and oneDNN pools are running when the workers are forked.
  torch::set_num_threads(4);
  const auto compute = [] {
    auto a = torch::rand({256, 256});
    auto image = torch::rand({2, 3, 32, 32});
    auto kernel = torch::rand({8, 3, 3, 3});
    return torch::mm(a, a).sum() + torch::conv2d(image, kernel).sum() + std::get<0>(torch::sort(a.flatten())).sum();
  };
  compute();
  const auto make = [compute](const std::vector<std::size_t>&) {
    compute();
    const auto threads =
        std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
    return torch::tensor({static_cast<std::int64_t>(threads), static_cast<std::int64_t>(torch::get_num_threads()),
                          static_cast<std::int64_t>(threading::thread_cpus().size())});
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(20, make),
                                             DataLoaderOptions(1).num_workers(2).timeout(std::chrono::seconds(60)));
  for (auto& batch : *loader) {
    EXPECT_EQ(batch[0].item<std::int64_t>(), 1) << "threads in the worker";
    EXPECT_EQ(batch[1].item<std::int64_t>(), 1) << "ATen's count";
    EXPECT_EQ(batch[2].item<std::int64_t>(), static_cast<std::int64_t>(threading::available_cpus().size()))
        << "not the core that OpenMP has bound the trainer to";
  }
  compute();
}

}  // namespace
}  // namespace torchfeed
