#include "workloads.h"

#include <torchfeed/plugin/batch_memory.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <stdexcept>
#include <thread>

namespace torchfeed::bench {
namespace {

constexpr std::int64_t kLength = 50;
constexpr std::int64_t kFeatures = 5;
constexpr std::int64_t kRows = 100'000;
constexpr std::int64_t kImages = 64;

const std::map<std::string, Workload> kNames{
    {"windows", Workload::kWindows}, {"windows_batch", Workload::kWindowsBatch},
    {"images", Workload::kImages},   {"burn", Workload::kBurn},
    {"wait", Workload::kWait},       {"tail", Workload::kTail},
    {"noop", Workload::kNoop},
};

const at::Tensor& table() {
  static const at::Tensor table = at::rand({kRows, kFeatures});
  return table;
}

const at::Tensor& images() {
  static const at::Tensor images = at::randint(0, 256, {kImages, 3, 224, 224}, at::kByte);
  return images;
}

/// Turns of a loop that nothing can shorten.
std::uint64_t turn(std::uint64_t turns) {
  volatile std::uint64_t state = 1;
  for (std::uint64_t i = 0; i < turns; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
  }
  return state;
}

double turns_a_millisecond() {
  using Clock = std::chrono::steady_clock;
  constexpr std::uint64_t kTurns = 200'000;
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto begin = Clock::now();
    turn(kTurns);
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  return kTurns / best;
}

void wait_for(double milliseconds) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

/// A sample of a workload whose data do not matter.
at::Tensor idle_sample(std::size_t index) {
  at::Tensor sample = at::empty({1});
  *sample.data_ptr<float>() = static_cast<float>(index);
  return sample;
}

}  // namespace

Workload workload_of(const std::string& name) {
  const auto found = kNames.find(name);
  if (found == kNames.end()) {
    throw std::invalid_argument("--workloads: expected windows, windows_batch, images, burn, wait, tail or noop, got " +
                                name);
  }
  return found->second;
}

const std::vector<std::string>& workload_names() {
  static const std::vector<std::string> names{"windows", "windows_batch", "images", "burn", "wait", "tail", "noop"};
  return names;
}

bool is_batch_native(Workload workload) { return workload == Workload::kWindowsBatch || workload == Workload::kNoop; }

void compute_for(double milliseconds) {
  static const double rate = turns_a_millisecond();
  turn(static_cast<std::uint64_t>(rate * milliseconds));
}

torch::data::TensorExample Samples::get(std::size_t index) {
  switch (workload_) {
    case Workload::kImages:
      return images()[static_cast<std::int64_t>(index % kImages)].to(at::kFloat).div_(255);
    case Workload::kBurn:
      compute_for(1);
      return idle_sample(index);
    case Workload::kWait:
      wait_for(2);
      return idle_sample(index);
    case Workload::kTail:
      wait_for(index % 160 == 159 ? 40 : 0.5);
      return idle_sample(index);
    default: {
      const auto first = static_cast<std::int64_t>(index % (kRows - kLength));
      return table().slice(0, first, first + kLength);
    }
  }
}

torch::data::TensorExample Batches::get_batch(std::vector<std::size_t> indices) {
  const auto size = static_cast<std::int64_t>(indices.size());
  if (workload_ == Workload::kNoop) {
    return empty_batch({size});
  }
  constexpr std::size_t kWindow = kLength * kFeatures;
  at::Tensor batch = empty_batch({size, kLength, kFeatures});
  const float* rows = table().data_ptr<float>();
  float* out = batch.data_ptr<float>();
  for (const std::size_t index : indices) {
    std::memcpy(out, rows + index % (kRows - kLength) * kFeatures, kWindow * sizeof(float));
    out += kWindow;
  }
  return batch;
}

}  // namespace torchfeed::bench
