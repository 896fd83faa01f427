#pragma once

#include <torchfeed/datasets/financial/instrument.h>
#include <torchfeed/datasets/financial/row_gather.h>
#include <torchfeed/datasets/financial/sample_index.h>
#include <torchfeed/datasets/financial/scale.h>
#include <torchfeed/datasets/financial/target_rule.h>
#include <torchfeed/datasets/financial_options.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed::datasets::financial {

/// What does not depend on where the parts are cut. Never changed once it is made.
struct MarketData {
  /// Throws `DataError` if a feature or the target's column is not to be had of each instrument.
  MarketData(const FinancialOptions& options, std::vector<Instrument> instruments,
             std::vector<std::string> feature_names);

  FinancialOptions options;
  std::vector<Instrument> instruments;
  /// C names.
  std::vector<std::string> feature_names;
  /// [instruments][C].
  ColumnPlaces feature_columns;
  TargetRule rule;
};

/// Scales that were fitted to a training part, and windows and targets on these scales. Any thread may read.
class FittedRows {
 public:
  /// Reads of the training part what the fit needs. `copied`: scales all rows now, so that windows are plain copies;
  /// else they are gathered from where the rows are. Both give the same bits. `data` must outlive this.
  FittedRows(const MarketData& data, const Cuts& cuts, bool copied);

  const Cuts& cuts() const { return cuts_; }
  const std::vector<Scale>& feature_scales() const { return feature_scales_; }
  const Scale& target_scale() const { return target_scale_; }

  /// Writes the window of the `sequence_length` rows before place.row: [L, C].
  void copy_window(const SamplePlace& place, float* out) const;

  /// Has the processor begin to fetch the rows of the sample that is to be copied next, and those on to its target. To
  /// hit each line, and the target's above all, took longer than it saved.
  void prefetch(const SamplePlace& place) const {
    const std::int64_t length = data_.options.sequence_length;
    if (copies_.empty()) gathers_[place.instrument].prefetch(place.row - length, length + data_.options.horizon);
  }

  /// The scaled target of the rows from place.row on.
  float target(const SamplePlace& place) const {
    if (!copies_.empty()) return copies_[place.instrument].targets[static_cast<std::size_t>(place.row)];
    return scale_target_(data_.rule(data_.instruments[place.instrument], place.instrument, place.row));
  }

 private:
  /// All rows of an instrument, scaled.
  struct Copy {
    std::vector<float> rows;     // [T, C]
    std::vector<float> targets;  // [T]; of a row whose target reaches beyond the last, nothing
  };

  void fit();
  void copy_all();

  const MarketData& data_;
  Cuts cuts_;
  std::vector<Scale> feature_scales_;
  Scale target_scale_;
  AppliedScale scale_target_{};
  std::vector<RowGather> gathers_;
  std::vector<Copy> copies_;
};

}  // namespace torchfeed::datasets::financial
