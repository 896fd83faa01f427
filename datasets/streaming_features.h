#pragma once

#include <torchfeed/datasets/column_table.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace torchfeed::datasets {

/// @file
/// Features by name, over whole columns and bar by bar. Both run the same code over the same state, so that a model
/// sees in production the very numbers that it was trained on, equal to the last bit.
///
/// | name | columns | is the function in features.h |
/// |---|---|---|
/// | `return`, `return_N` | one | `simple_return` of the close |
/// | `log_return`, `log_return_N` | one | `log_return` |
/// | `log_range` | one | `log_range` |
/// | `log_volume_change` | one | `log_volume_change` |
/// | `log_close_open` | one | `log_close_open` |
/// | `sma_N`, `ema_N` | one | `sma`, `ema` of the close |
/// | `rsi_N` | one | `rsi` |
/// | `macd_FAST_SLOW_SIGNAL` | the name, `_signal`, `_histogram` | `macd` |
/// | `bollinger_N_K` | `_upper`, `_middle`, `_lower`, `_bandwidth`, `_percent_b` | `bollinger` |
/// | `atr_N` | one | `atr` |
/// | `obv` | one | `obv` |
/// | `vwap_N` | one | `vwap` |
/// | `stochastic_N_K_D` | `_k`, `_d` | `stochastic` |
/// | `volatility_N` | one | `volatility` |
/// | `zscore_N` | one | `zscore` of the close |
/// | `day_of_week`, `month`, `hour_of_day` | `_sin`, `_cos` | those of their names |
/// | `open`, `high`, `low`, `close`, `volume` | one | the bar's own number |
///
/// N and the like are whole numbers, K of Bollinger's bands may be a decimal number: `bollinger_20_2.5`. One column of
/// a feature can be asked for by the column's name: `macd_12_26_9_histogram`, `bollinger_20_2_percent_b`. Case does not
/// matter.

/// What a market did in one stretch of time.
struct Bar {
  std::int64_t time = 0;  ///< Nanoseconds since 1970-01-01 UTC.
  double open = 0, high = 0, low = 0, close = 0;
  double volume = 0;
};

/// Whether `name` is in the table above, with parameters in their ranges.
bool is_feature(std::string_view name);

/// The names above with their parameters, for help texts: "return, return_N, log_return, ...".
const std::string& feature_names();

/// Features fed bar by bar, as they come: from a live feed, or from a file in blocks.
///
/// The numbers of a bar depend on the bars up to it alone. An object may be used by one thread at a time; objects are
/// independent of each other.
class StreamingFeatures {
 public:
  /// Of `names`, in this order. Throws c10::ValueError for a name that is not in the table above (with the list of what
  /// there is), a parameter out of range, and a column that is asked for twice.
  explicit StreamingFeatures(const std::vector<std::string>& names);
  ~StreamingFeatures();
  StreamingFeatures(StreamingFeatures&&) noexcept;
  StreamingFeatures& operator=(StreamingFeatures&&) noexcept;

  /// The name of each output number, in the order of `push`'s `out`.
  const std::vector<std::string>& columns() const;

  /// The number of first bars whose outputs are not all finite: the longest warm-up of the features.
  std::size_t warm_up() const;

  /// Bars taken so far.
  std::uint64_t bars() const;

  /// Takes the next bar and writes `columns().size()` numbers to `out`, NaN where a feature is still warming up.
  ///
  /// Of the bar, only its time and what the features use is looked at. Amortised O(1) for each feature, whatever its
  /// window; allocates nothing. Throws c10::ValueError, and is as if it had not been called, if the time is not after
  /// the last bar's, a price that is used is not finite and above zero, a volume is not finite or is below zero, or
  /// `out` has another size.
  void push(const Bar& bar, std::span<double> out);

  /// Takes the next bars, all of a table that has the columns which the features use, and gives their numbers as
  /// `push` would, computed in up to `threads` threads, a feature in each.
  ///
  /// Throws DataError, and is as if it had not been called, if a column is missing or has another length than the
  /// times, and for times and values that `push` refuses; c10::ValueError if `threads` is below 1.
  ColumnTable push(const ColumnTable& bars, int threads = 1);

  /// All that the next outputs depend on, as finite numbers, of a length that depends on the names alone. A stream that
  /// loads it goes on to the last bit.
  std::vector<double> state() const;

  /// Goes on from a state of another object with the same columns. Throws c10::ValueError for any other, and is as if
  /// it had not been called.
  void load_state(std::span<const double> state);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The features of all bars, by names in any order: those of the table above, and columns of `bars`, which are given as
/// they are. A name that is both is the feature. The first rows hold NaN where features are warming up.
///
/// Throws as `StreamingFeatures`' constructor and `push` do, for a name that is neither with the columns that there
/// are. Safe to call from any thread.
ColumnTable compute_features(const ColumnTable& bars, const std::vector<std::string>& names, int threads = 1);

}  // namespace torchfeed::datasets
