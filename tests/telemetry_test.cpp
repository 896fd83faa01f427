// What a loader tells of itself: statistics and the trace that viewers open.
#include <torchfeed/plugin/data_loader.h>

#include "support/loader_datasets.h"
#include "support/shared_counter.h"
#include "support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <vector>

namespace torchfeed {
namespace {

using testing::index_dataset;
using testing::indices_tensor;
using testing::kSettings;
using testing::one_epoch;
using testing::options_of;
using testing::Sequential;
using testing::Setting;
using testing::TensorDataset;

/// Computes until so much time has gone by.
void work_for(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

class Telemetry : public ::testing::TestWithParam<Setting> {};
INSTANTIATE_TEST_SUITE_P(Workers, Telemetry, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return testing::name_of(info.param); });

TEST_P(Telemetry, CountsTimeOfMakingOfStepsAndOfWaiting) {
  const auto make = [](const std::vector<std::size_t>& indices) {
    work_for(std::chrono::milliseconds(2));
    return indices_tensor(indices);
  };
  auto loader = make_data_loader<Sequential>(TensorDataset(100, make), options_of(GetParam(), 10));
  const auto begin = std::chrono::steady_clock::now();
  for (auto& batch : *loader) {
    static_cast<void>(batch);
    work_for(std::chrono::milliseconds(3));
  }
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const LoaderStats stats = loader->stats();
  EXPECT_EQ(stats.batches, 10U);
  EXPECT_GE(stats.produce_seconds, 10 * 0.002);
  EXPECT_GE(stats.step_seconds, 10 * 0.003);
  EXPECT_LE(stats.step_seconds + stats.wait_seconds, elapsed);
  EXPECT_GE(stats.step_seconds + stats.wait_seconds, elapsed * 0.5);
  EXPECT_GE(stats.worker_use(), 0);
  EXPECT_LE(stats.worker_use(), 1);
  if (GetParam().workers == 0) {
    EXPECT_GE(stats.wait_seconds, 10 * 0.002) << "inline, the loop waits for what it makes";
    EXPECT_EQ(stats.worker_use(), 0);
  } else {
    EXPECT_GT(stats.worker_use(), 0);
  }
}

TEST_P(Telemetry, TracesEachBatchBeingMadeAndEachStep) {
  const testing::TempDir directory;
  const std::string path = directory.path() + "/trace.json";
  {
    auto loader = make_data_loader<Sequential>(index_dataset(100), options_of(GetParam(), 10).trace(path));
    one_epoch(*loader);
    one_epoch(*loader);
  }
  std::map<std::string, std::set<std::pair<int, int>>> spans;
  std::set<int> rows;
  std::set<std::string> names;
  for (const auto& event : read_json(path)) {
    if (event["ph"] == "X") {
      EXPECT_GE(event["dur"].get<double>(), 0);
      EXPECT_GT(event["ts"].get<double>(), 0);
      spans[event["name"]].emplace(event["args"]["epoch"], event["args"]["batch"]);
      if (event["name"] == "produce") {
        rows.insert(event["tid"].get<int>());
      } else {
        EXPECT_EQ(event["tid"], 0);
      }
    } else if (event["name"] == "thread_name") {
      names.insert(event["args"]["name"].get<std::string>());
    }
  }
  EXPECT_EQ(spans["produce"].size(), 20U) << "each batch of both epochs";
  EXPECT_EQ(spans["step"].size(), 20U);
  const int workers = GetParam().workers;
  for (const int row : rows) {
    EXPECT_GE(row, workers == 0 ? 0 : 1);
    EXPECT_LE(row, workers);
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(workers) + 1);
  EXPECT_TRUE(names.count("trainer"));
}

TEST(Trace, ShowsThreeWorkersTheWaitsAndARestart) {
  const testing::TempDir directory;
  const std::string path = directory.path() + "/trace.json";
  testing::SharedCounter counter;
  {
    const auto make = [deaths = &*counter](const std::vector<std::size_t>& indices) {
      work_for(std::chrono::milliseconds(3));
      if (indices[0] == 60 && deaths->fetch_add(1) == 0) {
        ::raise(SIGKILL);
      }
      return indices_tensor(indices);
    };
    auto loader =
        make_data_loader<Sequential>(TensorDataset(120, make), DataLoaderOptions(2).num_workers(3).trace(path));
    EXPECT_EQ(one_epoch(*loader).size(), 60U);
  }
  std::set<int> rows;
  int waits = 0;
  int restarts = 0;
  for (const auto& event : read_json(path)) {
    if (event["name"] == "produce") {
      rows.insert(event["tid"].get<int>());
    }
    waits += event["name"] == "wait" ? 1 : 0;
    restarts += event["name"] == "worker restart" ? 1 : 0;
  }
  EXPECT_THAT(rows, ::testing::ElementsAre(1, 2, 3));
  EXPECT_GT(waits, 0);
  EXPECT_EQ(restarts, 1);
}

TEST(Trace, ToAPlaceThatCannotBeWrittenIsAnErrorBeforeAnythingStarts) {
  EXPECT_THROW(make_data_loader<Sequential>(
                   index_dataset(10), DataLoaderOptions(1).num_workers(1).trace("/nonexistent/directory/trace.json")),
               std::system_error);
}

TEST(Trace, OnAFullDiskEndsAndTheLoaderGoesOn) {
  // More events than the trace keeps in memory.
  auto loader =
      make_data_loader<Sequential>(index_dataset(4000), DataLoaderOptions(1).num_workers(1).trace("/dev/full"));
  EXPECT_EQ(one_epoch(*loader).size(), 4000U);
}

TEST(Profiler, SeesTheMakingOfABatchInTheTrainer) {
  auto loader = make_data_loader<Sequential>(index_dataset(10), DataLoaderOptions(5));
  static std::set<std::string> names;
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        names.insert(function.name());
        return nullptr;
      }).scopes({at::RecordScope::USER_SCOPE}));
  one_epoch(*loader);
  at::removeCallback(handle);
  EXPECT_TRUE(names.count("torchfeed::make_batch"));
}

}  // namespace
}  // namespace torchfeed
