#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial/scale.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace torchfeed::datasets::financial {

/// Copies some columns of consecutive rows of one instrument, scaled, as float32: (value - centre) * (1 / spread), all
/// in float32, so that the same rows give the same bits wherever they are stored. Columns that lie side by side in the
/// rows are the fastest. Const methods may be called from any thread.
class RowGather {
 public:
  /// `columns`: places in the rows, in the order of the result; `scales`: one for each.
  RowGather(const Instrument& instrument, std::vector<std::size_t> columns, const std::vector<Scale>& scales);

  /// Writes rows [first, first + length) to `out`: [length, C].
  void operator()(std::int64_t first, std::int64_t length, float* out) const {
    kernel_(*this, rows_ + first * row_bytes_, length, out);
  }

  /// Has the processor fetch what operator() would read, from the rows to its caches, while it does something else.
  void prefetch(std::int64_t first, std::int64_t length) const;

 private:
  using Kernel = void (*)(const RowGather& gather, const char* rows, std::int64_t length, float* out);

  template <typename T>
  Kernel choose() const;
  template <typename T, bool kSideBySide>
  static Kernel choose(std::size_t columns);
  template <typename T, bool kSideBySide, std::size_t C>
  static void copy_few(const RowGather& gather, const char* rows, std::int64_t length, float* out);
  template <typename T>
  static void copy_long_run(const RowGather& gather, const char* rows, std::int64_t length, float* out);
  template <typename T>
  static void copy_scattered(const RowGather& gather, const char* rows, std::int64_t length, float* out);

  const char* rows_;
  std::int64_t row_bytes_;
  std::vector<std::size_t> columns_;
  std::vector<float> centre_;
  std::vector<float> factor_;
  Kernel kernel_;
};

/// Brings each column of a window [length, columns] to mean 0 and population deviation 1 by its own numbers alone. A
/// column that does not vary becomes 0.
void standardise_window(float* window, std::int64_t length, std::int64_t columns);

}  // namespace torchfeed::datasets::financial
