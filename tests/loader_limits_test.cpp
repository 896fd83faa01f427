// What happens at limits: of processes, descriptors, addresses, file sizes, shared memory, and of the loader itself.
#include <torchfeed/plugin/data_loader.h>

#include "support/forked_child.h"
#include "support/loader_datasets.h"
#include "support/processes.h"
#include "support/sanitized.h"
#include "support/shared_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using ::testing::AnyOf;
using testing::counting;
using testing::gives_both_sizes;
using ::testing::HasSubstr;
using testing::index_dataset;
using testing::indices_tensor;
using testing::kSanitized;
using testing::LimitScope;
using testing::one_epoch_of_indices;
using testing::said_in_a_child;
using testing::Sequential;
using ::testing::StartsWith;
using testing::TensorDataset;

constexpr std::size_t kMiB = std::size_t{1} << 20;
// A loader that stalls is told from a slow one.
constexpr std::chrono::seconds kStalled{20};

/// "works", or the error's type and text.
std::string outcome(const std::function<void()>& body) {
  try {
    body();
    return "works";
  } catch (const WorkerError& error) {
    return std::string("WorkerError: ") + error.what();
  } catch (const c10::Error& error) {
    return std::string("c10::Error: ") + error.what_without_backtrace();
  } catch (const std::system_error& error) {
    return std::string("std::system_error: ") + error.what();
  } catch (const std::bad_alloc& error) {
    return std::string("std::bad_alloc: ") + error.what();
  }
}

/// outcome() of a loader's whole life. With a seed, as LibTorch opens /dev/urandom to draw one.
std::string outcome_of_a_loader(int workers) {
  return outcome([workers] {
    auto loader = make_data_loader<Sequential>(index_dataset(1000),
                                               DataLoaderOptions(10).num_workers(workers).seed(1).timeout(kStalled));
    TORCH_CHECK(one_epoch_of_indices(*loader) == counting(1000), "wrong batches");
  });
}

// ---- Processes ----

/// Ends the pools of threads that libraries start by themselves: ATen's own, and OpenBLAS's where that has one.
void end_thread_pools() {
  torch::set_num_threads(1);
  if (auto* set_blas_threads = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set_blas_threads(1);
  }
}

/// Root may fork whatever the limit says. A user of its own has no other processes.
bool become_another_user() {
  const auto user = static_cast<uid_t>(100000 + ::getpid());
  return ::setgroups(0, nullptr) == 0 && ::setresgid(user, user, user) == 0 && ::setresuid(user, user, user) == 0;
}

/// outcome_of_a_loader() of 4 workers for a user who may have so many threads in all, the trainer's included.
std::string outcome_with_threads(rlim_t threads, bool thread_pools) {
  return said_in_a_child([=]() -> std::string {
    if (!become_another_user()) {
      return "cannot become another user";
    }
    if (!thread_pools) {
      end_thread_pools();
    }
    const LimitScope limit(RLIMIT_NPROC, threads);
    return outcome_of_a_loader(4);
  });
}

class LoaderProcessLimit : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || outcome_with_threads(100, false) == "cannot become another user") {
      GTEST_SKIP() << "needs a user that has no other processes, and so root";
    }
  }
};

TEST_F(LoaderProcessLimit, ThatKeepsTheForkServerFromStartingIsASystemError) {
  EXPECT_THAT(outcome_with_threads(1, false), AllOf(StartsWith("std::system_error: "), HasSubstr("fork server"),
                                                    HasSubstr("Resource temporarily unavailable")));
}

TEST_F(LoaderProcessLimit, ThatKeepsEveryWorkerFromStartingIsAWorkerError) {
  EXPECT_THAT(outcome_with_threads(2, false),
              AllOf(StartsWith("WorkerError: "), HasSubstr("fork failed: Resource temporarily unavailable")));
}

/// How often a process has gone to sleep; -1 if there is none.
std::int64_t sleeps_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  const std::string name = "voluntary_ctxt_switches:";
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name, 0) == 0) {
      return std::stoll(line.substr(name.size()));
    }
  }
  return -1;
}

/// In a child of the trainer: lets its fork server have processes once that has tried in vain for some.
[[noreturn]] void lift_the_limit_later() {
  pid_t server = 0;
  while (server == 0) {
    for (const pid_t child : testing::children_of(::getppid())) {
      server = child == ::getpid() ? server : child;
    }
  }
  const std::int64_t begin = sleeps_of(server);  // it sleeps after each try
  for (std::int64_t now = begin; now >= 0 && now < begin + 2; now = sleeps_of(server)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // leaves its core to the server
  }
  const rlimit many{1000, 1000};
  ::prlimit(server, RLIMIT_NPROC, &many, nullptr);
  std::_Exit(0);
}

TEST_F(LoaderProcessLimit, ThatLetsWorkersStartAMomentLaterCostsThatMoment) {
  EXPECT_EQ(said_in_a_child([]() -> std::string {
              if (!become_another_user()) {
                return "cannot become another user";
              }
              end_thread_pools();
              const pid_t helper = ::fork();
              if (helper == 0) {
                lift_the_limit_later();
              }
              const LimitScope limit(RLIMIT_NPROC, 3);  // trainer, helper, fork server
              const std::string said = outcome_of_a_loader(4);
              ::kill(helper, SIGKILL);
              ::waitpid(helper, nullptr, 0);
              return said;
            }),
            "works");
}

TEST_F(LoaderProcessLimit, ThatKeepsSomeWorkersFromStartingLeavesTheOthersToWork) {
  EXPECT_EQ(outcome_with_threads(3, false), "works");
  EXPECT_EQ(outcome_with_threads(6, false), "works");
}

// OpenBLAS raises SIGINT in a trainer that cannot have back the threads that it had before the fork, and
// at::set_num_threads waits for ever in a fork server whose threads could not be started: neither may be met.
TEST_F(LoaderProcessLimit, IsAnErrorToATrainerWithThreadPoolsToo) {
  for (const rlim_t threads : {1, 2, 3, 4, 5, 6}) {
    EXPECT_THAT(outcome_with_threads(threads, true),
                AnyOf("works", StartsWith("std::system_error: "), StartsWith("WorkerError: torchfeed: ")))
        << threads << " threads";
  }
}

TEST(LoaderLimits, RefusesTenThousandWorkers) {
  EXPECT_THAT(outcome_of_a_loader(10000), AllOf(StartsWith("c10::Error: "), HasSubstr("10000")));
}

TEST(LoaderLimits, AThousandWorkersStartAndEnd) {
  if (kSanitized) {
    GTEST_SKIP() << "a thousand processes' shadow memory";
  }
  auto loader = make_data_loader<Sequential>(index_dataset(5000),
                                             DataLoaderOptions(1).num_workers(1000).max_jobs(64).timeout(kStalled));
  EXPECT_EQ(one_epoch_of_indices(*loader), counting(5000));
  EXPECT_EQ(loader->stats().worker_restarts, 0U);
}

// ---- Descriptors ----

/// The limit under which exactly so many descriptors can be opened.
rlim_t limit_with_free_descriptors(int free) {
  int limit = 0;
  for (int left = free; left > 0; ++limit) {
    left -= ::fcntl(limit, F_GETFD) < 0 ? 1 : 0;
  }
  return static_cast<rlim_t>(limit);
}

TEST(LoaderLimits, WorksWithSixtyFourDescriptors) {
  EXPECT_EQ(said_in_a_child([] {
              const LimitScope limit(RLIMIT_NOFILE, 64);
              return outcome_of_a_loader(8);
            }),
            "works");
}

TEST(LoaderLimits, TellsWhenDescriptorsAreUsedUp) {
  if (kSanitized) {
    GTEST_SKIP() << "UBSan probes objects through descriptors of its own";
  }
  bool worked = false;
  for (int free = 0; free <= 10; ++free) {
    const auto said = said_in_a_child([free] {
      const LimitScope limit(RLIMIT_NOFILE, limit_with_free_descriptors(free));
      return outcome_of_a_loader(2);
    });
    EXPECT_THAT(said,
                AnyOf("works", AllOf(StartsWith("std::system_error: torchfeed: "), HasSubstr("Too many open files")),
                      AllOf(StartsWith("WorkerError: torchfeed: "), HasSubstr("the fork server died"))))
        << free << " free descriptors";
    EXPECT_TRUE(!worked || said == "works") << "more descriptors do not harm";
    worked = said == "works";
  }
  EXPECT_TRUE(worked) << "ten descriptors are enough";
}

TEST(LoaderLimits, UsesNoMoreDescriptorsAfterAHundredThousandBatches) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const std::int64_t batches = kSanitized ? 10000 : 100000;
  auto loader = make_data_loader<Sequential>(index_dataset(static_cast<std::size_t>(batches)),
                                             DataLoaderOptions(1).num_workers(2).max_jobs(64).timeout(kStalled));
  auto iterator = loader->begin();
  EXPECT_NE(iterator, loader->end());
  const auto before = descriptors();
  std::int64_t seen = 0;
  for (; iterator != loader->end(); ++iterator) {
    ASSERT_EQ(*(*iterator).data_ptr<std::int64_t>(), seen++);
  }
  EXPECT_EQ(seen, batches);
  EXPECT_EQ(descriptors(), before);
}

// ---- Addresses ----

std::size_t addresses_in_use() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  file >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(LoaderLimits, WorksOrTellsWhateverAddressesAreLeft) {
  if (kSanitized) {
    GTEST_SKIP() << "sanitizers need more addresses than any limit";
  }
  std::string said;
  for (const std::size_t left : {0, 1, 2, 4, 8, 10, 12, 14, 16, 32, 64, 256, 1024}) {
    said = said_in_a_child([left] {
      const LimitScope limit(RLIMIT_AS, addresses_in_use() + left * kMiB);
      return outcome_of_a_loader(2);
    });
    EXPECT_THAT(said, AnyOf("works", StartsWith("std::system_error: "), StartsWith("std::bad_alloc: "),
                            StartsWith("c10::Error: "), StartsWith("WorkerError: ")))
        << left << " MiB left";
    EXPECT_THAT(said, Not(HasSubstr("left: "))) << left << " MiB left";
  }
  EXPECT_EQ(said, "works") << "a GiB of addresses is enough";
}

TEST(LoaderLimits, ADatasetThatTakesTooMuchMemoryFailsItsBatchAlone) {
  if (kSanitized) {
    GTEST_SKIP() << "sanitizers need more addresses than any limit";
  }
  const auto make = [](const std::vector<std::size_t>& indices) {
    constexpr std::size_t kTooMuch = std::size_t{64} << 30;
    if (indices[0] == 30) {
      return torch::tensor({static_cast<double>(std::vector<char>(kTooMuch).size())});
    }
    if (indices[0] == 50) {
      return torch::empty({static_cast<std::int64_t>(kTooMuch)});
    }
    return indices_tensor(indices);
  };
  const auto said = said_in_a_child([make] {
    const LimitScope limit(RLIMIT_AS, addresses_in_use() + 1024 * kMiB);
    auto loader = make_data_loader<Sequential>(TensorDataset(80, make), DataLoaderOptions(10).num_workers(2));
    auto iterator = loader->begin();
    std::string log;
    for (int i = 0; i < 8; ++i) {
      const auto result = outcome([&] {
        if (i > 0) {
          ++iterator;
        }
        TORCH_CHECK(iterator != loader->end() && (*iterator)[9].item<std::int64_t>() == 10 * i + 9, "wrong batch");
      });
      log += result.substr(0, result.find(' ')) + ' ';
    }
    return log + std::to_string(loader->stats().worker_restarts);
  });
  EXPECT_EQ(said, "works works works std::bad_alloc: works c10::Error: works works 0");
}

// ---- File sizes, which memfds have too ----

TEST(LoaderLimits, ALimitOfFileSizesLimitsBatchesAndKillsNobody) {
  const auto make = [](const std::vector<std::size_t>& indices) {
    return torch::full({indices[0] == 3 ? static_cast<std::int64_t>(16 * kMiB) : 1000},
                       static_cast<std::int64_t>(indices[0]), torch::kUInt8);
  };
  const auto said = said_in_a_child([make] {
    const LimitScope limit(RLIMIT_FSIZE, 8 * kMiB);
    auto loader = make_data_loader<Sequential>(
        TensorDataset(5, make), DataLoaderOptions(1).num_workers(1).shared_memory_budget(64 * kMiB).timeout(kStalled));
    auto iterator = loader->begin();
    std::string log;
    for (int i = 0; i < 5; ++i) {
      log += outcome([&] {
        if (i > 0) {
          ++iterator;
        }
        TORCH_CHECK(iterator != loader->end() && (*iterator)[999].item<std::uint8_t>() == i, "wrong batch");
      });
      log += '\n';
    }
    return log;
  });
  EXPECT_THAT(said, AllOf(StartsWith("works\nworks\nworks\nc10::Error: "), ::testing::EndsWith("\nworks\n")));
  EXPECT_TRUE(gives_both_sizes(said, 64 * kMiB, 16 * kMiB)) << said;
}

TEST(LoaderLimits, ALimitOfFileSizesBelowTheLoadersOwnStateIsASystemError) {
  EXPECT_THAT(said_in_a_child([] {
                const LimitScope limit(RLIMIT_FSIZE, 4096);
                return outcome_of_a_loader(1);
              }),
              AllOf(StartsWith("std::system_error: "), HasSubstr("RLIMIT_FSIZE")));
}

}  // namespace
}  // namespace torchfeed
