#include <torchfeed/datasets/row_statistics.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace torchfeed::datasets {
namespace {

constexpr std::size_t kNumbers = 2;  // mean and squares

std::size_t blocks_of(std::int64_t rows) {
  return static_cast<std::size_t>((rows + kStatisticsBlock - 1) / kStatisticsBlock);
}

}  // namespace

Moments combine(const Moments& a, std::int64_t a_count, const Moments& b, std::int64_t b_count) {
  if (a_count == 0) return b;
  if (b_count == 0) return a;
  const auto count = static_cast<double>(a_count + b_count);
  const double delta = b.mean - a.mean;
  const double share = static_cast<double>(b_count) / count;
  return {a.mean + delta * share, a.squares + b.squares + delta * delta * share * static_cast<double>(a_count)};
}

RowStatistics::RowStatistics(std::size_t columns) : RowStatistics(columns, 0, {}) {}

RowStatistics::RowStatistics(std::size_t columns, std::int64_t rows, std::vector<double> blocks)
    : columns_(columns), rows_(rows), blocks_(std::move(blocks)) {
  const std::size_t expected = blocks_of(rows) * columns * kNumbers;
  if (columns < 1 || rows < 0 || blocks_.size() != expected) {
    throw std::invalid_argument("RowStatistics: expected " + std::to_string(expected) + " numbers for " +
                                std::to_string(rows) + " rows of " + std::to_string(columns) + " columns, got " +
                                std::to_string(blocks_.size()));
  }
}

void RowStatistics::add(std::span<const float> rows) {
  if (rows.size() % columns_ != 0) {
    throw std::invalid_argument("RowStatistics: expected whole rows of " + std::to_string(columns_) + ", got " +
                                std::to_string(rows.size()) + " numbers");
  }
  // Apart from each other while rows are added, so that columns go side by side through the processor.
  std::vector<double> mean(columns_);
  std::vector<double> squares(columns_);
  const float* row = rows.data();
  std::int64_t left = static_cast<std::int64_t>(rows.size() / columns_);
  while (left > 0) {
    const std::int64_t in_block = rows_ % kStatisticsBlock;
    if (in_block == 0) blocks_.resize(blocks_.size() + columns_ * kNumbers);
    double* block = blocks_.data() + blocks_.size() - columns_ * kNumbers;
    for (std::size_t c = 0; c < columns_; ++c) {
      mean[c] = block[c * kNumbers];
      squares[c] = block[c * kNumbers + 1];
    }
    const std::int64_t end = std::min(kStatisticsBlock, in_block + left);
    for (std::int64_t count = in_block + 1; count <= end; ++count, row += columns_) {
      const double share = 1.0 / static_cast<double>(count);
      double* __restrict m = mean.data();
      double* __restrict s = squares.data();
      for (std::size_t c = 0; c < columns_; ++c) {
        const double value = row[c];
        const double delta = value - m[c];
        m[c] += delta * share;
        s[c] += delta * (value - m[c]);
      }
    }
    for (std::size_t c = 0; c < columns_; ++c) {
      block[c * kNumbers] = mean[c];
      block[c * kNumbers + 1] = squares[c];
    }
    left -= end - in_block;
    rows_ += end - in_block;
  }
}

Moments RowStatistics::of_leading(std::size_t c, std::int64_t rows) const {
  if (c >= columns_ || rows < 0 || rows > rows_ || (rows != rows_ && rows % kStatisticsBlock != 0)) {
    throw std::invalid_argument("RowStatistics: expected all rows or those of whole blocks, got " +
                                std::to_string(rows) + " of column " + std::to_string(c));
  }
  Moments all;
  for (std::int64_t begin = 0; begin < rows; begin += kStatisticsBlock) {
    const double* block =
        blocks_.data() + (static_cast<std::size_t>(begin / kStatisticsBlock) * columns_ + c) * kNumbers;
    all = combine(all, begin, {block[0], block[1]}, std::min(kStatisticsBlock, rows - begin));
  }
  return all;
}

}  // namespace torchfeed::datasets
