#include <torchfeed/datasets/financial/row_gather.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace torchfeed::datasets::financial {
namespace {

/// Most columns with a loop of their own, which the compiler unrolls into vector instructions.
constexpr std::size_t kLongestRun = 16;

std::int64_t bytes_of(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

}  // namespace

template <typename T, std::size_t C>
void RowGather::copy_run(const RowGather& gather, const char* rows, std::int64_t length, float* out) {
  // Local, so that the compiler knows that `out` is not them and keeps them in registers.
  std::array<float, C> centre;
  std::array<float, C> factor;
  std::copy_n(gather.centre_.begin(), C, centre.begin());
  std::copy_n(gather.factor_.begin(), C, factor.begin());
  const std::int64_t row_bytes = gather.row_bytes_;
  rows += gather.columns_.front() * sizeof(T);
  for (std::int64_t row = 0; row < length; ++row) {
    const auto* in = reinterpret_cast<const T*>(rows + row * row_bytes);
    std::array<float, C> values;
    for (std::size_t c = 0; c < C; ++c) values[c] = (static_cast<float>(in[c]) - centre[c]) * factor[c];
    std::copy_n(values.begin(), C, out + row * static_cast<std::int64_t>(C));
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

void standardise_window(float* window, std::int64_t length, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const auto at = [&](std::int64_t row) -> float& { return window[row * columns + c]; };
    CountedMoments column{length, {}};
    auto& [mean, squares] = column.moments;
    for (std::int64_t row = 0; row < length; ++row) mean += at(row);
    mean /= static_cast<double>(length);
    for (std::int64_t row = 0; row < length; ++row) squares += (at(row) - mean) * (at(row) - mean);
    const Scale scale = column.scale();
    for (std::int64_t row = 0; row < length; ++row) at(row) = scale(at(row));
  }
}

}  // namespace torchfeed::datasets::financial
