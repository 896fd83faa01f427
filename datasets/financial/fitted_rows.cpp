#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/financial/fitted_rows.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace torchfeed::datasets::financial {

MarketData::MarketData(const FinancialOptions& all_options, std::vector<Instrument> all_instruments,
                       std::vector<std::string> features)
    : options(all_options),
      instruments(std::move(all_instruments)),
      feature_names(std::move(features)),
      rule(options, instruments) {
  for (const auto& instrument : instruments) {
    auto& places = feature_columns.emplace_back();
    for (const auto& name : feature_names) places.push_back(instrument.column(name));
  }
}

FittedRows::FittedRows(const MarketData& data, const Cuts& cuts, bool copied) : data_(data), cuts_(cuts) {
  fit();
  for (std::size_t i = 0; i < data_.instruments.size(); ++i) {
    gathers_.emplace_back(data_.instruments[i], data_.feature_columns[i], feature_scales_);
  }
  if (copied) copy_all();
}

void FittedRows::fit() {
  const auto training = rows_between(data_.instruments, cuts_.train_begin, cuts_.train_end);
  switch (data_.options.scaling) {
    case Scaling::kStandard:
      feature_scales_ = fit_standard(data_.instruments, training, data_.feature_columns);
      break;
    case Scaling::kRobust:
      feature_scales_ = fit_robust(data_.instruments, training, data_.feature_columns);
      break;
    default:
      feature_scales_.resize(data_.feature_names.size());
  }
  target_scale_ = data_.rule.fit(data_.instruments, training);
  scale_target_ = AppliedScale(target_scale_);
  bool finite = std::isfinite(target_scale_.centre) && std::isfinite(target_scale_.spread);
  for (const auto& scale : feature_scales_) {
    finite = finite && std::isfinite(scale.centre) && std::isfinite(scale.spread);
  }
  if (!finite) {
    throw DataError(data_.instruments.front().source + ": expected finite numbers in the training part's rows");
  }
}

void FittedRows::copy_all() {
  const std::size_t columns = data_.feature_names.size();
  for (std::size_t i = 0; i < data_.instruments.size(); ++i) {
    const Instrument& instrument = data_.instruments[i];
    const auto rows = static_cast<std::size_t>(instrument.size);
    Copy& copy = copies_.emplace_back();
    copy.rows.resize(rows * columns);
    gathers_[i](0, instrument.size, copy.rows.data());
    copy.targets.resize(rows);
    for (std::int64_t row = data_.rule.first_row(); row + data_.options.horizon <= instrument.size; ++row) {
      copy.targets[static_cast<std::size_t>(row)] = scale_target_(data_.rule(instrument, i, row));
    }
  }
}

void FittedRows::copy_window(const SamplePlace& place, float* out) const {
  const std::int64_t length = data_.options.sequence_length;
  const auto columns = static_cast<std::int64_t>(data_.feature_names.size());
  const std::int64_t first = place.row - length;
  if (copies_.empty()) {
    gathers_[place.instrument](first, length, out);
  } else {
    const auto bytes = static_cast<std::size_t>(length * columns) * sizeof(float);
    std::memcpy(out, copies_[place.instrument].rows.data() + first * columns, bytes);
  }
  if (data_.options.scaling == Scaling::kWindow) standardise_window(out, length, columns);
}

}  // namespace torchfeed::datasets::financial
