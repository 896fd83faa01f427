#include <torchfeed/datasets/financial/row_gather.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// Most columns with a loop of their own, which the compiler unrolls into vector instructions.
constexpr std::size_t kLongestRun = 16;

/// Four numbers in a register, for which GCC and Clang have arithmetic on every machine.
using Vector = float __attribute__((vector_size(16)));

template <typename T>
Vector load(const char* numbers) {
  std::array<T, 4> in;
  std::memcpy(in.data(), numbers, sizeof in);
  return Vector{static_cast<float>(in[0]), static_cast<float>(in[1]), static_cast<float>(in[2]),
                static_cast<float>(in[3])};
}

template <>
Vector load<float>(const char* numbers) {
  Vector in;
  std::memcpy(&in, numbers, sizeof in);
  return in;
}

std::int64_t bytes_of(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

}  // namespace

template <typename T, std::size_t C>
void RowGather::copy_run(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  // Whole vectors: what is read and written beyond the columns belongs to the next rows and is written again by them.
  // The last rows are done number by number, so that nothing beyond their end is touched; kBeyond of them are enough,
  // as each has a column at least.
  constexpr std::size_t kPadded = (C + 3) / 4 * 4;
  constexpr std::int64_t kBeyond = kPadded - C;
  constexpr std::size_t kVectors = kPadded / 4;
  // Local, so that the compiler knows that `out` is not them and keeps them in registers.
  std::array<Vector, kVectors> centre{};
  std::array<Vector, kVectors> factor{};
  for (std::size_t c = 0; c < C; ++c) {
    centre[c / 4][c % 4] = gather.centre_[c];
    factor[c / 4][c % 4] = gather.factor_[c];
  }
  const std::int64_t row_bytes = gather.row_bytes_;
  rows += gather.columns_.front() * sizeof(T);
  std::int64_t row = 0;
  for (; row < length - kBeyond; ++row, rows += row_bytes, out += C) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Vector values = (load<T>(rows + v * 4 * sizeof(T)) - centre[v]) * factor[v];
      std::memcpy(out + v * 4, &values, sizeof values);
    }
  }
  for (; row < length; ++row, rows += row_bytes, out += C) {
    const auto* in = reinterpret_cast<const T*>(rows);
    for (std::size_t c = 0; c < C; ++c) out[c] = (static_cast<float>(in[c]) - gather.centre_[c]) * gather.factor_[c];
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
    centre_.push_back(static_cast<float>(scale.centre));
    factor_.push_back(scale.factor());
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
