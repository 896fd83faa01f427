#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/features/feature_set.h>
#include <torchfeed/datasets/streaming_features.h>

#include <c10/util/Exception.h>

#include <optional>
#include <utility>

namespace torchfeed::datasets {
namespace {

using features::BarColumns;
using features::FeatureSet;

BarColumns columns_of(const Bar& bar) {
  return {.values = {&bar.open, &bar.high, &bar.low, &bar.close, &bar.volume}, .times = &bar.time};
}

}  // namespace

struct StreamingFeatures::Impl {
  explicit Impl(const std::vector<std::string>& feature_names) : names(feature_names), set(feature_names) {}

  std::vector<std::string> names;
  FeatureSet set;
};

bool is_feature(std::string_view name) {
  try {
    return features::make_feature(name).feature != nullptr;
  } catch (const c10::ValueError&) {
    return false;
  }
}

const std::string& feature_names() { return features::list_of_features(); }

StreamingFeatures::StreamingFeatures(const std::vector<std::string>& names) : impl_(std::make_unique<Impl>(names)) {}
StreamingFeatures::~StreamingFeatures() = default;
StreamingFeatures::StreamingFeatures(StreamingFeatures&&) noexcept = default;
StreamingFeatures& StreamingFeatures::operator=(StreamingFeatures&&) noexcept = default;

const std::vector<std::string>& StreamingFeatures::columns() const { return impl_->set.columns(); }
std::size_t StreamingFeatures::warm_up() const { return impl_->set.warm_up(); }
std::uint64_t StreamingFeatures::bars() const { return impl_->set.bars(); }

void StreamingFeatures::push(const Bar& bar, std::span<double> out) {
  FeatureSet& set = impl_->set;
  TORCH_CHECK_VALUE(out.size() == set.columns().size(), "StreamingFeatures: push: out: expected ", set.columns().size(),
                    " numbers, got ", out.size());
  const BarColumns columns = columns_of(bar);
  const auto fault = set.find_fault(columns, 1);
  TORCH_CHECK_VALUE(!fault, "StreamingFeatures: push: ", *fault);
  set.push_bar(columns, out);
}

ColumnTable StreamingFeatures::push(const ColumnTable& bars, int threads) {
  TORCH_CHECK_VALUE(threads >= 1, "features: threads: expected 1 or more, got ", threads);
  FeatureSet& set = impl_->set;
  const BarColumns columns = set.columns_of(bars);
  if (const auto fault = set.find_fault(columns, bars.size())) throw DataError("features: " + *fault);
  ColumnTable out;
  out.times = bars.times;
  out.names = set.columns();
  out.values = set.push_columns(columns, bars.size(), threads);
  return out;
}

std::vector<double> StreamingFeatures::state() const { return impl_->set.state(); }

void StreamingFeatures::load_state(std::span<const double> state) {
  auto loaded = std::make_unique<Impl>(impl_->names);
  loaded->set.load(state);
  impl_ = std::move(loaded);
}

ColumnTable compute_features(const ColumnTable& bars, const std::vector<std::string>& names, int threads) {
  std::vector<std::string> wanted;                // of the features
  std::vector<std::optional<std::size_t>> given;  // an output column each: the column of `bars`, if it is one
  ColumnTable out;
  for (const auto& name : names) {
    const features::NamedFeature made = features::make_feature(name);
    const auto column = bars.find(features::lower_case(name));
    TORCH_CHECK_VALUE(made.feature != nullptr || column, "features: expected some of ", feature_names(),
                      ", or a column of the data (", features::joined(bars.names), "); got '", name, "'");
    if (made.feature != nullptr) {
      wanted.push_back(name);
      out.names.insert(out.names.end(), made.columns.begin(), made.columns.end());
      given.resize(out.names.size());
    } else {
      out.names.push_back(bars.names[*column]);
      given.push_back(column);
    }
  }
  features::check_columns_differ(out.names);
  ColumnTable computed = StreamingFeatures(wanted).push(bars, threads);
  out.times = std::move(computed.times);
  std::size_t next = 0;
  for (const auto& column : given) {
    out.values.push_back(column ? bars.values.at(*column) : std::move(computed.values[next++]));
  }
  return out;
}

}  // namespace torchfeed::datasets
