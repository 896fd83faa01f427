#include <torchfeed/datasets/financial/row_gather.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// Most columns with a loop of their own, which the compiler unrolls into vector instructions.
constexpr std::size_t kLongestRun = 16;

/// So many numbers in a register, for which GCC and Clang have arithmetic on every machine.
template <std::size_t kWidth>
struct Register;
template <>
struct Register<4> {
  using Type = float __attribute__((vector_size(16)));
};
template <>
struct Register<2> {
  using Type = float __attribute__((vector_size(8)));
};
template <>
struct Register<1> {
  using Type = float;
};

template <typename T, std::size_t kWidth>
typename Register<kWidth>::Type load(const char* numbers) {
  typename Register<kWidth>::Type loaded{};
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&loaded, numbers, sizeof loaded);
  } else {
    std::array<T, kWidth> in;
    std::memcpy(in.data(), numbers, sizeof in);
    if constexpr (kWidth == 1) {
      loaded = static_cast<float>(in[0]);
    } else {
      for (std::size_t i = 0; i < kWidth; ++i) loaded[i] = static_cast<float>(in[i]);
    }
  }
  return loaded;
}

/// Scales the columns from kAt on of rows of C columns, in registers of 4, 2 and 1 number. Three that are left take one
/// register with the column before, which is scaled again.
template <typename T, std::size_t C, std::size_t kAt = 0>
class Columns {
 public:
  Columns(const float* centre, const float* factor) : rest_(centre, factor) {
    std::memcpy(&centre_, centre + kFirst, sizeof centre_);
    std::memcpy(&factor_, factor + kFirst, sizeof factor_);
  }

  void scale(const char* row, float* out) const {
    const auto values = (load<T, kWidth>(row + kFirst * sizeof(T)) - centre_) * factor_;
    std::memcpy(out + kFirst, &values, sizeof values);
    rest_.scale(row, out);
  }

 private:
  static constexpr std::size_t kLeft = C - kAt;
  static constexpr std::size_t kFirst = kLeft == 3 && kAt > 0 ? kAt - 1 : kAt;
  static constexpr std::size_t kWidth = C - kFirst >= 4 ? 4 : std::min<std::size_t>(kLeft, 2);

  typename Register<kWidth>::Type centre_;
  typename Register<kWidth>::Type factor_;
  Columns<T, C, kFirst + kWidth> rest_;
};

template <typename T, std::size_t C>
class Columns<T, C, C> {
 public:
  Columns(const float*, const float*) {}
  void scale(const char*, float*) const {}
};

std::int64_t bytes_of(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

}  // namespace

template <typename T, std::size_t C>
void RowGather::copy_run(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  // A copy, so that the compiler knows that `out` is none of it and keeps it in registers.
  const Columns<T, C> columns(gather.centre_.data(), gather.factor_.data());
  const std::int64_t row_bytes = gather.row_bytes_;
  rows += gather.columns_.front() * sizeof(T);
  for (std::int64_t row = 0; row < length; ++row, rows += row_bytes, out += C) columns.scale(rows, out);
}

template <typename T>
void RowGather::copy_long_run(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  const std::size_t columns = gather.columns_.size();
  const float* __restrict centre = gather.centre_.data();
  const float* __restrict factor = gather.factor_.data();
  rows += gather.columns_.front() * sizeof(T);
  for (std::int64_t row = 0; row < length; ++row, rows += gather.row_bytes_, out += columns) {
    const auto* __restrict in = reinterpret_cast<const T*>(rows);
    float* __restrict to = out;
    for (std::size_t c = 0; c < columns; ++c) to[c] = (static_cast<float>(in[c]) - centre[c]) * factor[c];
  }
}

template <typename T>
void RowGather::copy_scattered(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  const std::size_t columns = gather.columns_.size();
  const std::size_t* places = gather.columns_.data();
  const float* centre = gather.centre_.data();
  const float* factor = gather.factor_.data();
  for (std::int64_t row = 0; row < length; ++row, rows += gather.row_bytes_, out += columns) {
    const auto* in = reinterpret_cast<const T*>(rows);
    for (std::size_t c = 0; c < columns; ++c) out[c] = (static_cast<float>(in[places[c]]) - centre[c]) * factor[c];
  }
}

template <typename T>
RowGather::Kernel RowGather::choose(bool side_by_side, std::size_t columns) {
  if (!side_by_side) return &copy_scattered<T>;
  if (columns > kLongestRun) return &copy_long_run<T>;
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    constexpr std::array<Kernel, kLongestRun> kKernels = {&copy_run<T, I + 1>...};
    return kKernels[columns - 1];
  }
  (std::make_index_sequence<kLongestRun>());
}

RowGather::RowGather(const Instrument& instrument, std::vector<std::size_t> columns, const std::vector<Scale>& scales)
    : rows_(static_cast<const char*>(instrument.rows)),
      row_bytes_(static_cast<std::int64_t>(instrument.columns.size()) * bytes_of(instrument.type)),
      columns_(std::move(columns)) {
  for (const auto& scale : scales) {
    const AppliedScale applied(scale);
    centre_.push_back(applied.centre);
    factor_.push_back(applied.factor);
  }
  bool side_by_side = true;
  for (std::size_t c = 1; c < columns_.size(); ++c) side_by_side = side_by_side && columns_[c] == columns_[c - 1] + 1;
  switch (instrument.type) {
    case RowType::kFloat16:
      kernel_ = choose<c10::Half>(side_by_side, columns_.size());
      break;
    case RowType::kBFloat16:
      kernel_ = choose<c10::BFloat16>(side_by_side, columns_.size());
      break;
    default:
      kernel_ = choose<float>(side_by_side, columns_.size());
  }
}

void RowGather::prefetch(std::int64_t first, std::int64_t length) const {
  constexpr std::int64_t kLine = 64;
  // More would push each other out; the processor's own prefetcher has found the pattern by then.
  constexpr std::int64_t kMost = 64 * kLine;
  const char* rows = rows_ + first * row_bytes_;
  const std::int64_t bytes = std::min(length * row_bytes_, kMost);
  for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(rows + at);
}

void standardise_window(float* window, std::int64_t length, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const auto at = [&](std::int64_t row) -> float& { return window[row * columns + c]; };
    CountedMoments column{length, {}};
    auto& [mean, squares] = column.moments;
    for (std::int64_t row = 0; row < length; ++row) mean += at(row);
    mean /= static_cast<double>(length);
    for (std::int64_t row = 0; row < length; ++row) squares += (at(row) - mean) * (at(row) - mean);
    const Scale scale = column.scale();
    // In double, as float32 has few digits left of a mean far from 0. Equal numbers have themselves as a mean.
    for (std::int64_t row = 0; row < length; ++row) {
      at(row) = static_cast<float>((at(row) - scale.centre) / scale.spread);
    }
  }
}

}  // namespace torchfeed::datasets::financial
