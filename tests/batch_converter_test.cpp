// What BatchConverter computes, against ATen in double: dtypes, layouts, sizes and strides, and its errors.
#include <torchfeed/plugin/batch_converter.h>
#include <torchfeed/plugin/convert/aten_conversion.h>
#include <torchfeed/plugin/convert/block_conversion.h>
#include <torchfeed/plugin/threading/openmp_team.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sys/resource.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace torchfeed {
namespace {

using ::testing::HasSubstr;
using Sizes = std::vector<std::int64_t>;

constexpr auto kNone = BatchLayout::kNoChannels;
constexpr auto kFirst = BatchLayout::kChannelsFirst;
constexpr auto kLast = BatchLayout::kChannelsLast;
const std::vector<at::ScalarType> kOneDnnDtypes = {at::kByte, at::kChar, at::kInt, at::kFloat, at::kBFloat16};

bool is_integer(at::ScalarType dtype) { return c10::isIntegralType(dtype, false); }

/// Values that fill the dtype's range, or about 1,000 where that is larger.
at::Tensor values(const Sizes& sizes, at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
      return torch::randint(0, 256, sizes, dtype);
    case at::kChar:
      return torch::randint(-128, 128, sizes, dtype);
    case at::kBool:
      return torch::randint(0, 2, sizes, dtype);
    default:
      return is_integer(dtype) ? torch::randint(-1000, 1000, sizes, dtype) : torch::randn(sizes).mul_(300).to(dtype);
  }
}

at::Tensor reordered(const at::Tensor& batch, BatchLayout from, BatchLayout to) {
  if (from == to) return batch;
  return from == kLast ? batch.movedim(-1, 1) : batch.movedim(1, -1);
}

at::Tensor along_channels(const std::vector<double>& numbers, const BatchConverterOptions& options,
                          int64_t dimensions) {
  const at::Tensor all = torch::tensor(numbers, torch::kDouble);
  Sizes sizes(static_cast<std::size_t>(dimensions), 1);
  if (numbers.size() > 1) sizes[options.to == kFirst ? 1 : sizes.size() - 1] = -1;
  return all.view(sizes);
}

/// The error that the header allows, for each element: of the arithmetic, and then of the rounding to the dtype.
at::Tensor tolerance(const at::Tensor& scaled, const at::Tensor& shift, at::ScalarType dtype) {
  const at::Tensor computed = (scaled.abs() + shift.abs()) * std::ldexp(1.0, -21);
  switch (dtype) {
    case at::kBFloat16:
      return computed + (scaled + shift).abs() * std::ldexp(1.0, -8);
    case at::kHalf:
      return computed + (scaled + shift).abs() * std::ldexp(1.0, -10) + std::ldexp(1.0, -24);
    default:
      return is_integer(dtype) ? computed + 0.5 : computed;
  }
}

/// Whether `result` is what `options` make of `batch`.
void expect_converted(const at::Tensor& result, const at::Tensor& batch, const BatchConverterOptions& options) {
  const at::Tensor source = reordered(batch, options.from, options.to).to(torch::kDouble);
  const at::Tensor scaled = source * along_channels(options.scale, options, source.dim());
  const at::Tensor shift = along_channels(options.shift, options, source.dim());
  at::Tensor expected = scaled + shift;
  if (is_integer(options.dtype)) {
    const bool narrow = options.dtype != at::kInt;
    const double least = options.dtype == at::kByte ? 0 : narrow ? -128 : std::numeric_limits<std::int32_t>::min();
    expected = expected.clamp(least, !narrow ? std::numeric_limits<std::int32_t>::max() : least + 255);
  }
  ASSERT_EQ(result.scalar_type(), options.dtype);
  ASSERT_EQ(result.sizes(), expected.sizes());
  EXPECT_TRUE(result.is_contiguous());
  const at::Tensor over = (result.to(torch::kDouble) - expected).abs() - tolerance(scaled, shift, options.dtype);
  if (over.numel() > 0) {
    EXPECT_LE(over.max().item<double>(), 0)
        << batch.scalar_type() << " to " << options.dtype << ", sizes " << batch.sizes();
  }
}

void expect_converts(const at::Tensor& batch, const BatchConverterOptions& options) {
  expect_converted(BatchConverter(options)(batch), batch, options);
}

/// One number, or one a channel.
std::vector<double> numbers(std::int64_t count, double first, double step) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < count; ++i) result.push_back(first + step * static_cast<double>(i));
  return result;
}

struct Layouts {
  BatchLayout from;
  BatchLayout to;
};
const std::vector<Layouts> kLayouts = {{kFirst, kFirst}, {kLast, kLast}, {kFirst, kLast}, {kLast, kFirst}};

/// All scales, shifts and layouts of one pair of dtypes.
void expect_pair(at::ScalarType from, at::ScalarType to) {
  for (const auto& layouts : kLayouts) {
    for (const std::int64_t channels : {1, 3, 4, 17}) {
      const at::Tensor batch =
          values(layouts.from == kLast ? Sizes{3, 7, 11, channels} : Sizes{3, channels, 7, 11}, from);
      for (const std::int64_t scales : {std::int64_t{1}, channels}) {
        for (const std::int64_t shifts : {std::int64_t{0}, std::int64_t{1}, channels}) {
          BatchConverterOptions options{.dtype = to, .from = layouts.from, .to = layouts.to};
          options.scale = numbers(scales, 1 / 3.0, 0.01);
          if (shifts > 0) options.shift = numbers(shifts, -2.25, 0.3);
          expect_converts(batch, options);
        }
      }
    }
  }
}

TEST(BatchConverter, ComputesWhatATenDoesInDoubleForEveryPairOfDtypesAndLayouts) {
  for (const auto from : kOneDnnDtypes) {
    for (const auto to : kOneDnnDtypes) expect_pair(from, to);
  }
}

TEST(BatchConverter, TakesDtypesThatOneDnnHasNot) {
  for (const auto from : {at::kBool, at::kShort, at::kLong, at::kHalf, at::kDouble}) {
    expect_pair(from, at::kFloat);
    expect_pair(from, at::kByte);
  }
  for (const auto to : {at::kHalf, at::kDouble}) {
    expect_pair(at::kByte, to);
    expect_pair(at::kFloat, to);
  }
}

TEST(BatchConverter, ComputesInDoubleWhereEitherSideIsDouble) {
  const at::Tensor prices = torch::full({4}, 1e9 + 1.0 / 3, torch::kDouble);
  const at::Tensor result = BatchConverter({.dtype = at::kDouble, .shift = {-1e9}})(prices);
  EXPECT_NEAR(result[0].item<double>(), 1.0 / 3, 1e-6);
  const at::Tensor ticks = torch::full({4}, (std::int64_t{1} << 40) + 3, torch::kLong);
  const at::Tensor less = BatchConverter({.scale = {0.5}, .shift = {-std::ldexp(1.0, 39)}})(ticks);
  EXPECT_EQ(less[0].item<float>(), 1.5F);
}

TEST(BatchConverter, CopiesExactlyWhereThereIsNothingToCompute) {
  for (const auto dtype : kOneDnnDtypes) {
    const at::Tensor batch =
        dtype == at::kInt ? torch::randint(-2147483647, 2147483647, {2, 5, 7, 3}, dtype) : values({2, 5, 7, 3}, dtype);
    const at::Tensor result = BatchConverter({.dtype = dtype, .from = kLast, .to = kFirst})(batch);
    EXPECT_TRUE(torch::equal(result, batch.movedim(-1, 1))) << dtype;
  }
}

TEST(BatchConverter, RoundsToTheNearestEvenAndHoldsToTheRange) {
  const at::Tensor batch =
      torch::tensor({-3e9, -300.0, -129.5, -2.5, -1.5, 0.4, 0.5, 1.5, 254.5, 255.5, 300.0, 3e9}).to(torch::kFloat);
  const auto as = [&](at::ScalarType dtype) {
    const at::Tensor result = BatchConverter({.dtype = dtype})(batch).to(torch::kLong);
    return Sizes(result.data_ptr<std::int64_t>(), result.data_ptr<std::int64_t>() + result.numel());
  };
  EXPECT_EQ(as(at::kByte), (Sizes{0, 0, 0, 0, 0, 0, 0, 2, 254, 255, 255, 255}));
  EXPECT_EQ(as(at::kChar), (Sizes{-128, -128, -128, -2, -2, 0, 0, 2, 127, 127, 127, 127}));
  Sizes whole = as(at::kInt);
  EXPECT_EQ(whole.front(), std::numeric_limits<std::int32_t>::min());
  EXPECT_GE(whole.back(), std::numeric_limits<std::int32_t>::max() - 127);  // the next lower float32
  EXPECT_EQ(Sizes(whole.begin() + 1, whole.end() - 1), (Sizes{-300, -130, -2, -2, 0, 0, 2, 254, 256, 300}));
}

TEST(BatchConverter, RoundsAShiftedValueOnce) {
  // 128.5 is no bfloat16, and their difference has to be exact all the same.
  const at::Tensor batch = torch::full({2, 4, 4, 3}, 129, torch::kByte);
  for (const auto& layouts : kLayouts) {
    const auto result =
        BatchConverter({.dtype = at::kBFloat16, .shift = {-128.5}, .from = layouts.from, .to = layouts.to})(batch);
    EXPECT_TRUE(torch::equal(result.to(torch::kFloat), torch::full_like(result, 0.5, torch::kFloat)));
  }
}

TEST(BatchConverter, ConvertsBatchesOfAnySize) {
  const BatchConverterOptions images{
      .scale = {1 / 50.0, 1 / 51.0, 1 / 52.0}, .shift = {-1, -2, -3}, .from = kLast, .to = kFirst};
  // Less than a vector, more than a block, one block's rest of one row, and blocks along a third dimension.
  for (const Sizes& sizes : {Sizes{1, 1, 1, 3}, Sizes{1, 5, 3, 3}, Sizes{2, 16, 1, 3}, Sizes{33, 17, 15, 3},
                             Sizes{1, 301, 293, 3}, Sizes{1, 2, 70'001, 3}, Sizes{5, 3}, Sizes{10'001, 9, 3}}) {
    for (const auto dtype : {at::kByte, at::kChar, at::kFloat}) {
      for (const auto to : {at::kFloat, at::kBFloat16, at::kChar}) {
        auto options = images;
        options.dtype = to;
        expect_converts(values(sizes, dtype), options);
        options.to = kLast;
        expect_converts(values(sizes, dtype), options);
      }
    }
  }
}

TEST(BatchConverter, ConvertsPlainDataOfAnyRank) {
  for (const Sizes& sizes : {Sizes{1}, Sizes{262'145}, Sizes{1'000'003}, Sizes{7, 5}, Sizes{2, 3, 2, 2, 3, 2, 2}}) {
    for (const auto dtype : kOneDnnDtypes) {
      expect_converts(values(sizes, dtype), {.scale = {0.01}});
      expect_converts(values(sizes, dtype), {.dtype = at::kBFloat16, .scale = {0.01}, .shift = {3}});
    }
  }
}

TEST(BatchConverter, TakesTensorsOfAnyStrides) {
  const BatchConverterOptions last{.scale = {0.5, 0.6, 0.7}, .shift = {1, 2, 3}, .from = kLast, .to = kFirst};
  const BatchConverterOptions first{.scale = {0.5, 0.6, 0.7}, .shift = {1, 2, 3}, .from = kFirst, .to = kFirst};
  for (const auto dtype : kOneDnnDtypes) {
    const at::Tensor images = values({6, 20, 24, 3}, dtype);
    expect_converts(images.slice(1, 3, 17).slice(2, 5, 23), last);  // a crop
    expect_converts(images.slice(0, 0, 6, 2).slice(2, 1, 24, 3), last);
    expect_converts(images.transpose(1, 2), last);
    expect_converts(images.permute({0, 3, 1, 2}), first);  // the channels_last memory format
    expect_converts(images.slice(3, 1, 2).expand({6, 20, 24, 3}), last);
    expect_converts(images.slice(0, 0, 1).expand({6, 20, 24, 3}), last);
    expect_converts(values({6, 20, 24, 4}, dtype).slice(3, 0, 3), last);  // alpha left out
    // Windows that overlap.
    expect_converts(values({100, 3}, dtype).unfold(0, 10, 1), first);
    expect_converts(values({100, 3}, dtype).unfold(0, 10, 1).transpose(1, 2), last);
  }
}

TEST(BatchConverter, GivesTheSameByOneDnnAndByATen) {
  convert::Job job{.from = at::kInt, .to = at::kFloat, .sizes = {6, 20, 24, 3}, .channel = 3, .sources = {}};
  const convert::Affine affine{{0.5, 0.6, 0.7}, {1, 2, 3}};
  const at::Tensor batch = values(job.sizes, job.from);
  job.sources.push_back({batch.data_ptr(), batch.strides().vec()});
  const at::Tensor by_onednn = torch::empty(job.sizes);
  const at::Tensor by_aten = torch::empty(job.sizes);
  ASSERT_TRUE(convert::convert_with_onednn(job, affine, by_onednn.data_ptr(), 1, threading::run_in_openmp_team))
      << "oneDNN has this one everywhere";
  convert::convert_with_aten(batch, affine, 3, by_aten);
  EXPECT_TRUE(torch::allclose(by_onednn, by_aten, std::ldexp(1.0, -20), 0));
}

TEST(BatchConverter, LeavesWhatItCannotDoToATen) {
  const at::Tensor batch = values({6, 8}, at::kHalf);
  const convert::Job job{
      .from = at::kHalf, .to = at::kFloat, .sizes = {6, 8}, .channel = -1, .sources = {{batch.data_ptr(), {8, 1}}}};
  const at::Tensor result = torch::full({6, 8}, 7.0);
  EXPECT_FALSE(convert::convert_with_onednn(job, {}, result.data_ptr(), 2, threading::run_in_openmp_team));
  EXPECT_TRUE(torch::equal(result, torch::full({6, 8}, 7.0))) << "nothing may be written";
}

/// How many threads are asked for to convert images of `sizes` to planes, of `threads` that there are.
int team_for(const Sizes& sizes, int threads) {
  static int asked = 0;
  const at::Tensor images = values(sizes, at::kByte);
  const at::Tensor planes = images.movedim(-1, 1);
  const convert::Job job{.from = at::kByte,
                         .to = at::kFloat,
                         .sizes = planes.sizes().vec(),
                         .channel = -1,
                         .sources = {{images.data_ptr(), planes.strides().vec()}}};
  const at::Tensor result = torch::full(planes.sizes(), -1.0);
  const convert::Team team = [](int wanted, const std::function<void()>& body) {
    asked = wanted;
    std::vector<std::thread> others;
    for (int i = 1; i < wanted; ++i) others.emplace_back(body);
    body();
    for (auto& other : others) other.join();
    return wanted;
  };
  EXPECT_TRUE(convert::convert_with_onednn(job, {}, result.data_ptr(), threads, team));
  EXPECT_TRUE(torch::equal(result, planes.to(at::kFloat))) << "each block once, whoever does it";
  return asked;
}

TEST(BatchConverter, SharesLargeBatchesAmongThreads) {
  EXPECT_EQ(team_for({32, 64, 64, 3}, 2), 2);
  EXPECT_EQ(team_for({32, 64, 64, 3}, 5), 5);
  EXPECT_EQ(team_for({1, 224, 224, 3}, 4), 4) << "a single image as well";
  EXPECT_EQ(team_for({2, 64, 64, 3}, 2), 1) << "too small";
}

TEST(BatchConverter, ConvertsInAllOfATensThreads) {
  if (threading::run_in_openmp_team(2, [] {}) < 2) GTEST_SKIP() << "there is no OpenMP library";
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const BatchConverter converter({.scale = {0.01}});
  const at::Tensor ticks = values({2'000'000}, at::kInt);
  // A thread that writes new memory has page faults. The other one may come too late when the machine is busy.
  const auto faults_elsewhere = [] {
    std::atomic<long> faults{0};
    const auto here = std::this_thread::get_id();
    threading::run_in_openmp_team(2, [&] {
      rusage usage{};
      getrusage(RUSAGE_THREAD, &usage);
      if (std::this_thread::get_id() != here) faults = usage.ru_minflt;
    });
    return faults.load();
  };
  faults_elsewhere();  // the thread's own first ones
  const long first = faults_elsewhere();
  int rounds = 0;
  std::vector<at::Tensor> kept;  // so that each result is new memory
  while (faults_elsewhere() == first && rounds < 50) {
    kept.push_back(converter(ticks));
    ++rounds;
  }
  EXPECT_GT(faults_elsewhere(), first) << "in " << rounds << " conversions";
  at::set_num_threads(before);
}

TEST(BatchConverter, GivesAnEmptyBatchForAnEmptyBatch) {
  const at::Tensor result =
      BatchConverter({.scale = {1, 2, 3}, .from = kLast, .to = kFirst})(torch::empty({0, 5, 7, 3}, torch::kByte));
  EXPECT_EQ(result.sizes(), (Sizes{0, 3, 5, 7}));
  EXPECT_EQ(result.scalar_type(), at::kFloat);
  EXPECT_EQ(BatchConverter()(torch::empty({4, 0})).sizes(), (Sizes{4, 0}));
}

TEST(BatchConverter, StacksSamplesWhoseStridesDiffer) {
  const BatchConverterOptions options{.scale = {0.1, 0.2, 0.3}, .shift = {3, 2, 1}, .from = kLast, .to = kFirst};
  for (const auto dtype : kOneDnnDtypes) {
    std::vector<at::Tensor> samples;
    for (int i = 0; i < 9; ++i) {
      samples.push_back(i % 3 == 0   ? values({12, 10, 3}, dtype)
                        : i % 3 == 1 ? values({3, 12, 10}, dtype).permute({1, 2, 0})
                                     : values({12, 1, 3}, dtype).expand({12, 10, 3}));
    }
    expect_converted(BatchConverter(options)(samples), torch::stack(samples), options);
  }
}

TEST(BatchConverter, StacksSingleNumbers) {
  const std::vector<at::Tensor> samples{torch::tensor(3, torch::kInt), torch::tensor(5, torch::kInt)};
  EXPECT_TRUE(torch::equal(BatchConverter({.scale = {2}, .shift = {1}})(samples), torch::tensor({7.0F, 11.0F})));
}

TEST(BatchConverter, GivesNoGradient) {
  const at::Tensor weights = torch::ones({4, 3}, torch::requires_grad());
  EXPECT_FALSE(BatchConverter({.scale = {2}})(weights).requires_grad());
  EXPECT_FALSE(BatchConverter({.dtype = at::kDouble, .scale = {2}})(weights).requires_grad());
}

TEST(BatchConverter, KeepsApartWhatLooksAlike) {
  // The same sizes with other scales, shifts and dtypes, again and again, more than are kept.
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 80; ++i) {
      const at::Tensor batch = values({2, 3, 5, 3}, kOneDnnDtypes[static_cast<std::size_t>(i) % 5]);
      const auto number = static_cast<double>(i + 1);
      expect_converts(batch, {.scale = numbers(3, number, 1), .shift = {number}, .from = kFirst, .to = kLast});
    }
  }
}

// ---- Errors ----

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(BatchConverterErrors, NameOptionsThatDoNotFit) {
  const auto making = [](BatchConverterOptions options) { return error_of([&] { BatchConverter{options}; }); };
  EXPECT_THAT(making({.dtype = at::kLong}),
              HasSubstr("BatchConverter: dtype: expected Float, BFloat16, Half, Double, Int, Char or Byte, got Long"));
  EXPECT_THAT(making({.scale = {}}), HasSubstr("scale: expected one number or one a channel, got none"));
  EXPECT_THAT(making({.shift = {1, std::nan("")}, .from = kLast, .to = kLast}),
              HasSubstr("shift: expected finite numbers in float32, got nan"));
  EXPECT_THAT(making({.scale = {1e39}}), HasSubstr("scale: expected finite numbers in float32, got 1e+39"));
  EXPECT_THAT(making({.scale = {1, 2, 3}, .shift = {1, 2}, .from = kLast, .to = kLast}),
              HasSubstr("expected scale and shift for the same number of channels, got 3 and 2"));
  EXPECT_THAT(making({.from = kLast}),
              HasSubstr("expected channels in both layouts or in none, got from [B, ..., C] to [B, ...]"));
  EXPECT_THAT(making({.scale = {1, 2}}),
              HasSubstr("expected a layout with channels for scale and shift of 2 channels, got [B, ...]"));
}

TEST(BatchConverterErrors, NameTensorsThatDoNotFit) {
  const BatchConverter images({.scale = {1, 2, 3}, .from = kLast, .to = kFirst});
  const auto converting = [&](const at::Tensor& batch) { return error_of([&] { images(batch); }); };
  EXPECT_THAT(converting(torch::ones({2, 5, 5, 4})),
              HasSubstr("expected 3 channels in [B, ..., C], got sizes [2, 5, 5, 4]"));
  EXPECT_THAT(converting(torch::ones({3})), HasSubstr("expected dimensions [B, ..., C], got sizes [3]"));
  EXPECT_THAT(converting(torch::tensor(1)), HasSubstr("expected dimensions [B, ..., C], got a single number"));
  EXPECT_THAT(converting(torch::ones({2, 3}, torch::kComplexFloat)),
              HasSubstr("expected real numbers as a batch, got ComplexFloat"));
  EXPECT_THAT(converting(torch::ones({2, 3}, torch::kMeta)),
              HasSubstr("expected a dense tensor on the CPU as a batch"));
  EXPECT_THAT(converting(torch::eye(3).to_sparse()), HasSubstr("expected a dense tensor on the CPU as a batch"));
  EXPECT_THAT(converting({}), HasSubstr("expected a tensor as a batch, got an undefined one"));
}

TEST(BatchConverterErrors, NameSamplesThatDoNotFit) {
  const BatchConverter converter({.from = kLast, .to = kFirst});
  const auto converting = [&](const std::vector<at::Tensor>& samples) { return error_of([&] { converter(samples); }); };
  EXPECT_THAT(converting({}), HasSubstr("expected at least one sample, got none"));
  EXPECT_THAT(converting({torch::ones({2, 3}), torch::ones({3, 2})}),
              HasSubstr("expected samples of one size and dtype, got [2, 3] Float and [3, 2] Float"));
  EXPECT_THAT(converting({torch::ones({2, 3}), torch::ones({2, 3}, torch::kInt)}),
              HasSubstr("expected samples of one size and dtype, got [2, 3] Float and [2, 3] Int"));
  EXPECT_THAT(converting({torch::tensor(1.0)}), HasSubstr("expected dimensions [B, ..., C], got sizes []"));
}

}  // namespace
}  // namespace torchfeed
