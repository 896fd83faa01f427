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
constexpr std::size_t kMostUnrolled = 16;

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

/// Scales the columns from kAt on of rows of C columns, in registers of 4, 2 and 1 number. Three that are left take one
/// register with the column before, which is scaled again.
template <typename T, bool kSideBySide, std::size_t C, std::size_t kAt = 0>
class Columns {
 public:
  /// `places` in the rows; of columns side by side, the first is where rows are taken to begin.
  Columns(const std::size_t* places, const float* centre, const float* factor) : rest_(places, centre, factor) {
    for (std::size_t i = 0; i < kWidth; ++i) places_[i] = kSideBySide ? kFirst + i : places[kFirst + i];
    std::memcpy(&centre_, centre + kFirst, sizeof centre_);
    std::memcpy(&factor_, factor + kFirst, sizeof factor_);
  }

  void scale(const T* row, float* out) const {
    const Numbers values = (load(row) - centre_) * factor_;
    std::memcpy(out + kFirst, &values, sizeof values);
    rest_.scale(row, out);
  }

 private:
  static constexpr std::size_t kLeft = C - kAt;
  static constexpr std::size_t kFirst = kLeft == 3 && kAt > 0 ? kAt - 1 : kAt;
  static constexpr std::size_t kWidth = C - kFirst >= 4 ? 4 : std::min<std::size_t>(kLeft, 2);
  using Numbers = typename Register<kWidth>::Type;

  Numbers load(const T* row) const {
    Numbers numbers{};
    if constexpr (kSideBySide && std::is_same_v<T, float>) {
      std::memcpy(&numbers, row + kFirst, sizeof numbers);
    } else if constexpr (kWidth == 1) {
      numbers = static_cast<float>(row[places_[0]]);
    } else {
      for (std::size_t i = 0; i < kWidth; ++i) numbers[i] = static_cast<float>(row[places_[i]]);
    }
    return numbers;
  }

  std::array<std::size_t, kWidth> places_;
  Numbers centre_;
  Numbers factor_;
  Columns<T, kSideBySide, C, kFirst + kWidth> rest_;
};

template <typename T, bool kSideBySide, std::size_t C>
class Columns<T, kSideBySide, C, C> {
 public:
  Columns(const std::size_t*, const float*, const float*) {}
  void scale(const T*, float*) const {}
};

std::int64_t bytes_of(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

}  // namespace

template <typename T, bool kSideBySide, std::size_t C>
void RowGather::copy_few(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  // A copy, so that the compiler knows that `out` is none of it and keeps it in registers.
  const Columns<T, kSideBySide, C> columns(gather.columns_.data(), gather.centre_.data(), gather.factor_.data());
  const std::int64_t row_bytes = gather.row_bytes_;
  if (kSideBySide) rows += gather.columns_.front() * sizeof(T);
  for (std::int64_t row = 0; row < length; ++row, rows += row_bytes, out += C) {
    columns.scale(reinterpret_cast<const T*>(rows), out);
  }
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

template <typename T, bool kSideBySide>
RowGather::Kernel RowGather::choose(std::size_t columns) {
  if (columns > kMostUnrolled) return kSideBySide ? &copy_long_run<T> : &copy_scattered<T>;
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    constexpr std::array<Kernel, kMostUnrolled> kKernels = {&copy_few<T, kSideBySide, I + 1>...};
    return kKernels[columns - 1];
  }
  (std::make_index_sequence<kMostUnrolled>());
}

template <typename T>
RowGather::Kernel RowGather::choose() const {
  bool side_by_side = true;
  for (std::size_t c = 1; c < columns_.size(); ++c) side_by_side = side_by_side && columns_[c] == columns_[c - 1] + 1;
  return side_by_side ? choose<T, true>(columns_.size()) : choose<T, false>(columns_.size());
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
  switch (instrument.type) {
    case RowType::kFloat16:
      kernel_ = choose<c10::Half>();
      break;
    case RowType::kBFloat16:
      kernel_ = choose<c10::BFloat16>();
      break;
    default:
      kernel_ = choose<float>();
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
