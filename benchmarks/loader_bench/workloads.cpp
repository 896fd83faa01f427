#include "workloads.h"

#include <torchfeed/plugin/batch_memory.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <thread>

namespace torchfeed::bench {
namespace {

constexpr std::int64_t kLength = 50;
constexpr std::int64_t kFeatures = 5;
constexpr std::int64_t kRows = 100'000;
constexpr std::size_t kWindow = kLength * kFeatures;
constexpr std::int64_t kImages = 64;
constexpr double kWaitMs = 2;
constexpr double kTailMs = 0.5;
constexpr double kLongTailMs = 40;
constexpr std::size_t kTailPeriod = 160;

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
  const std::vector<std::string>& names = workload_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    std::string message = "--workloads: expected";
    for (const std::string& known : names) {
      message += (known == names.front() ? " " : ", ") + known;
    }
    throw std::invalid_argument(message + "; got '" + name + "'");
  }
  return static_cast<Workload>(found - names.begin());
}

const std::string& name_of(Workload workload) { return workload_names()[static_cast<std::size_t>(workload)]; }

const std::vector<std::string>& workload_names() {
  static const std::vector<std::string> names{"windows", "windows_batch", "images", "images_converter",
                                              "burn",    "wait",          "tail",   "noop"};
  return names;
}

bool is_batch_native(Workload workload) { return workload == Workload::kWindowsBatch || workload == Workload::kNoop; }

bool is_waiting(Workload workload) { return workload == Workload::kWait || workload == Workload::kTail; }

std::size_t period_of(Workload workload, std::size_t batch_size) {
  return workload == Workload::kTail ? std::lcm(kTailPeriod, batch_size) / batch_size : 1;
}

void compute_for(double milliseconds) {
  static const double rate = turns_a_millisecond();
  turn(static_cast<std::uint64_t>(rate * milliseconds));
}

void gather_windows(const std::vector<std::size_t>& indices, float* out) {
  const float* rows = table().data_ptr<float>();
  for (const std::size_t index : indices) {
    std::memcpy(out, rows + index % (kRows - kLength) * kFeatures, kWindow * sizeof(float));
    out += kWindow;
  }
}

std::vector<float> window_buffer(std::size_t batch_size) { return std::vector<float>(batch_size * kWindow); }

Convert<std::vector<torch::data::TensorExample>> image_converter() {
  return Convert<std::vector<torch::data::TensorExample>>(BatchConverterOptions{.scale = {1 / 255.0}});
}

torch::data::TensorExample Samples::get(std::size_t index) {
  switch (workload_) {
    case Workload::kImages:
      return images()[static_cast<std::int64_t>(index % kImages)].to(at::kFloat).div_(255);
    case Workload::kImagesConverter:
      return images()[static_cast<std::int64_t>(index % kImages)];
    case Workload::kBurn:
      compute_for(1);
      return idle_sample(index);
    case Workload::kWait:
      wait_for(kWaitMs);
      return idle_sample(index);
    case Workload::kTail:
      wait_for(index % kTailPeriod == kTailPeriod - 1 ? kLongTailMs : kTailMs);
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
  at::Tensor batch = empty_batch({size, kLength, kFeatures});
  gather_windows(indices, batch.data_ptr<float>());
  return batch;
}

}  // namespace torchfeed::bench
