// BatchConverter beside what one writes with ATen: images to planes of floats, and ticks to prices.
//   build/bin/converter_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// The time is the converter's. as_written and best are how many times as long ATen takes, as a user would write it and
// in the fastest of the forms here, one after the other in the same round, so that what else the machine does hits all
// alike. The argument is the number of threads.
#include <torchfeed/plugin/batch_converter.h>

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
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace {

namespace feed = torchfeed;
using Clock = std::chrono::steady_clock;
using Form = std::function<at::Tensor()>;

double seconds(const Form& form) {
  const auto begin = Clock::now();
  benchmark::DoNotOptimize(form());
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// `forms`: ATen's; the first is the one that a user writes.
void compare(benchmark::State& state, const Form& converter, const std::vector<Form>& forms) {
  const int before = at::get_num_threads();
  at::set_num_threads(static_cast<int>(state.range(0)));
  const at::Tensor ours = converter();
  for (const Form& form : forms) {
    if (!at::allclose(ours, form(), 1e-5, 1e-5)) state.SkipWithError("the results differ");
  }
  std::vector<double> our_times;
  std::vector<std::vector<double>> their_times(forms.size());
  for (auto _ : state) {
    our_times.push_back(seconds(converter));
    state.SetIterationTime(our_times.back());
    for (std::size_t i = 0; i < forms.size(); ++i) their_times[i].push_back(seconds(forms[i]));
  }
  if (!our_times.empty()) {
    std::vector<double> medians;
    for (const auto& times : their_times) medians.push_back(median(times) / median(our_times));
    state.counters["as_written"] = medians.front();
    state.counters["best"] = *std::min_element(medians.begin(), medians.end());
  }
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
void images_to_planes(benchmark::State& state) {
  const feed::BatchConverter converter(to_planes());
  const at::Tensor kept = at::empty({32, 3, 224, 224});
  compare(state, [&] { return converter(images()); },
          {[] { return planes().to(at::kFloat).contiguous().div(255); },
           [] { return planes().to(at::kFloat).contiguous().div_(255); },
           [] { return planes().contiguous().to(at::kFloat).div_(255); },
           [] { return planes().to(at::kFloat, false, false, kContiguous).div_(255); },
           [&] {  // into memory that is there already
             at::Tensor out = kept;
             return out.copy_(planes()).div_(255);
           },
           [&] {
             at::Tensor out = kept;
             return at::mul_out(out, planes(), at::scalar_tensor(1 / 255.0F));
           }});
}

/// The same with a mean and a standard deviation for each channel.
void images_normalised(benchmark::State& state) {
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
  const at::Tensor kept = at::empty({32, 3, 224, 224});
  compare(state, [&] { return converter(images()); },
          {[&] { return planes().to(at::kFloat).contiguous().div(255).sub(means).div(stddevs); },
           [&] { return planes().to(at::kFloat, false, false, kContiguous).mul_(scale).add_(shift); },
           [&] {
             at::Tensor out = kept;
             return out.copy_(planes()).mul_(scale).add_(shift);
           },
           [&] {
             at::Tensor out = kept;
             return at::mul_out(out, planes(), scale).add_(shift);
           }});
}

/// 32 samples, stacked too.
void samples_to_planes(benchmark::State& state) {
  const feed::BatchConverter converter(to_planes());
  const std::vector<at::Tensor> samples = images().unbind();
  compare(state, [&] { return converter(samples); },
          {[&] {
             std::vector<at::Tensor> converted;
             for (const auto& sample : samples) {
               converted.push_back(sample.permute({2, 0, 1}).to(at::kFloat).contiguous().div(255));
             }
             return at::stack(converted);
           },
           [&] {
             return at::stack(samples).permute({0, 3, 1, 2}).to(at::kFloat, false, false, kContiguous).div_(255);
           }});
}

/// 16 M prices in ticks of 0.01.
void ticks_to_prices(benchmark::State& state) {
  static const at::Tensor ticks = at::randint(0, 1'000'000, {16'000'000}, at::kInt);
  const feed::BatchConverter converter({.scale = {0.01}});
  const at::Tensor kept = at::empty({16'000'000});
  compare(state, [&] { return converter(ticks); },
          {[] { return ticks.to(at::kFloat).mul(0.01); }, [] { return ticks.to(at::kFloat).mul_(0.01); },
           [&] {
             at::Tensor out = kept;
             return out.copy_(ticks).mul_(0.01);
           },
           [&] {
             at::Tensor out = kept;
             return at::mul_out(out, ticks, at::scalar_tensor(0.01F));
           }});
}

void one_and_two_threads(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(2)->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(images_to_planes)->Apply(one_and_two_threads);
BENCHMARK(images_normalised)->Apply(one_and_two_threads);
BENCHMARK(samples_to_planes)->Apply(one_and_two_threads);
BENCHMARK(ticks_to_prices)->Apply(one_and_two_threads);

}  // namespace

BENCHMARK_MAIN();
