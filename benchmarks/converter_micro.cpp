// BatchConverter beside what one writes with ATen: images to planes of floats, and ticks to prices.
//   build/bin/converter_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// The argument is the number of threads. The time is the converter's, into a new tensor, or with in_slot into the slot
// of a worker, whose memory is there already and used again and again. as_written and best are how many times as long
// ATen takes, as a user would write it and in the fastest of the forms here: those that make a new tensor, and with
// in_slot those that write into memory that is there already as well. `limit` is the part of the time that memcpy and
// memset need on as many threads to read and write as many bytes of memory that is there already. All of these one
// after the other in the same round, so that what else the machine does hits all alike.
#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/threading/openmp_team.h>

#include "support/worker_slot.h"

#include <ATen/Parallel.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace {

namespace feed = torchfeed;
using Clock = std::chrono::steady_clock;
using Form = std::function<at::Tensor()>;

/// ATen's ways to do the same.
struct Forms {
  std::vector<Form> new_tensor;  ///< the first is the one that a user writes
  std::vector<Form> given;       ///< into memory that is there already
};

/// Straight after another run of the same, so that the memory of either side is in the caches as far as it fits.
double seconds(const Form& form) {
  benchmark::DoNotOptimize(form());
  const auto begin = Clock::now();
  benchmark::DoNotOptimize(form());
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Reads all of `from` and writes all of `to`, which is no smaller, on so many threads.
at::Tensor move_bytes(const at::Tensor& from, const at::Tensor& to, int threads) {
  std::atomic<std::size_t> next{0};
  feed::threading::run_in_openmp_team(threads, [&] {
    const std::size_t part = next.fetch_add(1);
    const auto cut = [&](std::size_t bytes, std::size_t at) { return bytes * at / static_cast<std::size_t>(threads); };
    const auto* in = static_cast<const char*>(from.data_ptr());
    auto* out = static_cast<char*>(to.data_ptr()) + cut(to.nbytes(), part);
    const std::size_t read = cut(from.nbytes(), part + 1) - cut(from.nbytes(), part);
    const std::size_t written = cut(to.nbytes(), part + 1) - cut(to.nbytes(), part);
    std::memcpy(out, in + cut(from.nbytes(), part), read);
    std::memset(out + read, 0, written - read);
  });
  return to;
}

/// `source` is what is converted.
void compare(benchmark::State& state, bool in_slot, const at::Tensor& source, const Form& converter, Forms forms) {
  const int before = at::get_num_threads();
  const auto threads = static_cast<int>(state.range(0));
  at::set_num_threads(threads);
  feed::benchmarks::WorkerSlot slot;
  const Form ours = in_slot ? Form([&] { return slot.run(converter); }) : converter;
  const at::Tensor expected = ours().clone();
  std::vector<Form> all = std::move(forms.new_tensor);
  if (in_slot) all.insert(all.end(), forms.given.begin(), forms.given.end());
  for (const Form& form : all) {
    if (!at::allclose(expected, form(), 1e-5, 1e-5)) state.SkipWithError("the results differ");
  }
  const at::Tensor kept = at::empty_like(expected);
  all.push_back([&] { return move_bytes(source, kept, threads); });
  std::vector<double> our_times;
  std::vector<std::vector<double>> their_times(all.size());
  for (auto _ : state) {
    our_times.push_back(seconds(ours));
    state.SetIterationTime(our_times.back());
    for (std::size_t i = 0; i < all.size(); ++i) their_times[i].push_back(seconds(all[i]));
  }
  if (!our_times.empty()) {
    std::vector<double> ratios;
    for (const auto& times : their_times) ratios.push_back(median(times) / median(our_times));
    state.counters["limit"] = ratios.back();
    ratios.pop_back();
    state.counters["as_written"] = ratios.front();
    state.counters["best"] = *std::min_element(ratios.begin(), ratios.end());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(source.nbytes() + expected.nbytes()));
  at::set_num_threads(before);
}

const at::Tensor& images() {
  static const at::Tensor images = at::randint(0, 256, {32, 224, 224, 3}, at::kByte);
  return images;
}

feed::BatchConverterOptions to_planes() {
  return {.scale = {1 / 255.0}, .from = feed::BatchLayout::kChannelsLast, .to = feed::BatchLayout::kChannelsFirst};
}

at::Tensor planes() { return images().permute({0, 3, 1, 2}); }

constexpr auto kContiguous = at::MemoryFormat::Contiguous;

/// Bytes [32, 224, 224, 3] to float32 [32, 3, 224, 224] from 0 to 1.
void images_to_planes(benchmark::State& state, bool in_slot) {
  const feed::BatchConverter converter(to_planes());
  at::Tensor kept = at::empty({32, 3, 224, 224});
  compare(state, in_slot, images(), [&] { return converter(images()); },
          {.new_tensor = {[] { return planes().to(at::kFloat).contiguous().div(255); },
                          [] { return planes().to(at::kFloat).contiguous().div_(255); },
                          [] { return planes().contiguous().to(at::kFloat).div_(255); },
                          [] { return planes().to(at::kFloat, false, false, kContiguous).div_(255); }},
           .given = {[&] { return kept.copy_(planes()).div_(255); },
                     [&] { return at::mul_out(kept, planes(), at::scalar_tensor(1 / 255.0F)); }}});
}

/// The same with a mean and a standard deviation for each channel.
void images_normalised(benchmark::State& state, bool in_slot) {
  const std::vector<double> mean{0.485, 0.456, 0.406};
  const std::vector<double> stddev{0.229, 0.224, 0.225};
  feed::BatchConverterOptions options = to_planes();
  options.scale.clear();
  options.shift.clear();
  for (std::size_t i = 0; i < 3; ++i) {
    options.scale.push_back(1 / (255 * stddev[i]));
    options.shift.push_back(-mean[i] / stddev[i]);
  }
  const feed::BatchConverter converter(options);
  const auto along = [](const std::vector<double>& values) {
    return at::tensor(values).to(at::kFloat).view({1, 3, 1, 1});
  };
  const at::Tensor means = along(mean), stddevs = along(stddev), scale = along(options.scale),
                   shift = along(options.shift);
  at::Tensor kept = at::empty({32, 3, 224, 224});
  compare(state, in_slot, images(), [&] { return converter(images()); },
          {.new_tensor = {[&] { return planes().to(at::kFloat).contiguous().div(255).sub(means).div(stddevs); },
                          [&] { return planes().to(at::kFloat, false, false, kContiguous).mul_(scale).add_(shift); }},
           .given = {[&] { return kept.copy_(planes()).mul_(scale).add_(shift); },
                     [&] { return at::mul_out(kept, planes(), scale).add_(shift); }}});
}

/// 32 samples, stacked too.
void samples_to_planes(benchmark::State& state, bool in_slot) {
  const feed::BatchConverter converter(to_planes());
  const std::vector<at::Tensor> samples = images().unbind();
  at::Tensor kept = at::empty({32, 3, 224, 224});
  compare(state, in_slot, images(), [&] { return converter(samples); },
          {.new_tensor = {[&] {
                            std::vector<at::Tensor> converted;
                            for (const auto& sample : samples) {
                              converted.push_back(sample.permute({2, 0, 1}).to(at::kFloat).contiguous().div(255));
                            }
                            return at::stack(converted);
                          },
                          [&] {
                            const at::Tensor stacked = at::stack(samples).permute({0, 3, 1, 2});
                            return stacked.to(at::kFloat, false, false, kContiguous).div_(255);
                          }},
           .given = {[&] {
                       return kept.copy_(at::stack(samples).permute({0, 3, 1, 2})).div_(255);
                     },
                     [&] {
                       for (std::size_t i = 0; i < samples.size(); ++i) {
                         kept[static_cast<std::int64_t>(i)].copy_(samples[i].permute({2, 0, 1}));
                       }
                       return kept.div_(255);
                     }}});
}

/// 16 M prices in ticks of 0.01.
void ticks_to_prices(benchmark::State& state, bool in_slot) {
  static const at::Tensor ticks = at::randint(0, 1'000'000, {16'000'000}, at::kInt);
  const feed::BatchConverter converter({.scale = {0.01}});
  at::Tensor kept = at::empty({16'000'000});
  compare(state, in_slot, ticks, [&] { return converter(ticks); },
          {.new_tensor = {[] { return ticks.to(at::kFloat).mul(0.01); }, [] { return ticks.to(at::kFloat).mul_(0.01); },
                          [] { return ticks.mul(0.01); }},
           .given = {[&] { return kept.copy_(ticks).mul_(0.01); },
                     [&] { return at::mul_out(kept, ticks, at::scalar_tensor(0.01F)); }}});
}

void one_and_two_threads(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(2)->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(images_to_planes, new_tensor, false)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(images_to_planes, in_slot, true)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(images_normalised, new_tensor, false)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(images_normalised, in_slot, true)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(samples_to_planes, new_tensor, false)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(samples_to_planes, in_slot, true)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(ticks_to_prices, new_tensor, false)->Apply(one_and_two_threads);
BENCHMARK_CAPTURE(ticks_to_prices, in_slot, true)->Apply(one_and_two_threads);

}  // namespace

BENCHMARK_MAIN();
