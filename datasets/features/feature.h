#pragma once

#include <torchfeed/datasets/features/state.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <utility>

namespace torchfeed::datasets::features {

/// What a bar has for features.
enum Column : std::size_t { kOpen, kHigh, kLow, kClose, kVolume, kTime };

/// Names of the columns with values, in the order of `Column`.
inline constexpr std::array kColumnNames{"open", "high", "low", "close", "volume"};
inline constexpr std::size_t kColumns = kColumnNames.size();
using ColumnSet = std::bitset<kColumns + 1>;

/// Numbers a bar that no feature has more of.
inline constexpr std::size_t kMostOutputs = 8;

/// Where columns lie; null for what is not there. A single bar is one of length 1.
struct BarColumns {
  std::array<const double*, kColumns> values{};
  const std::int64_t* times = nullptr;

  template <Column kColumn>
  auto at(std::size_t row) const {
    if constexpr (kColumn == kTime) {
      return times[row];
    } else {
      return values[kColumn][row];
    }
  }
};

/// The columns that an indicator's `push` takes, in their order.
template <Column... kUsed>
struct Inputs {
  static ColumnSet set() {
    ColumnSet used;
    (used.set(kUsed), ...);
    return used;
  }

  template <typename Indicator>
  static auto push(Indicator& indicator, const BarColumns& bars, std::size_t row) {
    return indicator.push(bars.at<kUsed>(row)...);
  }
};

/// An indicator of any kind with its memory.
class Feature {
 public:
  virtual ~Feature() = default;
  Feature() = default;
  Feature(const Feature&) = delete;
  Feature& operator=(const Feature&) = delete;

  virtual ColumnSet inputs() const = 0;
  virtual std::size_t warm_up() const = 0;
  /// Numbers a bar.
  virtual std::size_t outputs() const = 0;

  /// Takes `count` bars and writes out[output][row], NaN in the warm-up. An output whose pointer is null is not
  /// written.
  virtual void push(const BarColumns& bars, std::size_t count, std::span<double* const> out) = 0;

  virtual void save(StateWriter& state) const = 0;
  virtual void load(StateReader& state) = 0;
};

/// The feature of an indicator, which has `Inputs`, `kOutputs`, `warm_up()`, `push(inputs...) -> array of outputs`, of
/// which the first `warm_up()` mean nothing, and `visit(state)`.
///
/// There is one way to run an indicator, this `push`, for a column as for a bar, so that both give the same bits.
template <typename Indicator>
class FeatureOf final : public Feature {
  static_assert(Indicator::kOutputs <= kMostOutputs);

 public:
  explicit FeatureOf(Indicator indicator) : indicator_(std::move(indicator)) {}

  ColumnSet inputs() const override { return Indicator::Inputs::set(); }
  std::size_t warm_up() const override { return indicator_.warm_up(); }
  std::size_t outputs() const override { return Indicator::kOutputs; }

  void push(const BarColumns& bars, std::size_t count, std::span<double* const> out) override {
    // In locals, as the compiler must else expect each written output to change them.
    Indicator indicator = std::move(indicator_);
    std::array<double*, Indicator::kOutputs> columns;
    std::copy_n(out.begin(), columns.size(), columns.begin());
    const std::size_t hidden = std::min(count, warm_up_left_);
    for (std::size_t row = 0; row < hidden; ++row) {
      Indicator::Inputs::push(indicator, bars, row);
      for (double* column : columns) {
        if (column != nullptr) column[row] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    for (std::size_t row = hidden; row < count; ++row) {
      const std::array<double, Indicator::kOutputs> values = Indicator::Inputs::push(indicator, bars, row);
      for (std::size_t i = 0; i < columns.size(); ++i) {
        if (columns[i] != nullptr) columns[i][row] = values[i];
      }
    }
    warm_up_left_ -= hidden;
    indicator_ = std::move(indicator);
  }

  void save(StateWriter& state) const override {
    state.index(warm_up_left_, warm_up() + 1);
    Indicator copy = indicator_;
    copy.visit(state);
  }

  void load(StateReader& state) override {
    state.index(warm_up_left_, warm_up() + 1);
    indicator_.visit(state);
  }

 private:
  Indicator indicator_;
  std::size_t warm_up_left_ = indicator_.warm_up();
};

}  // namespace torchfeed::datasets::features
