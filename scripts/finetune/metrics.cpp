#include "metrics.h"

#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

namespace torchfeed::finetune {
namespace {

constexpr size_t kEvaluationBatch = 256;
constexpr int64_t kRollingDays = 10;

template <typename Iterator>
double mean(Iterator begin, Iterator end) {
  return std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
}

}  // namespace

double mean_squared_error(Model& model, datasets::FinancialDataset& dataset) {
  const torch::NoGradGuard no_grad;
  model.eval();
  const size_t size = *dataset.size();
  double sum = 0;
  for (size_t begin = 0; begin < size; begin += kEvaluationBatch) {
    std::vector<size_t> indices(std::min(kEvaluationBatch, size - begin));
    std::iota(indices.begin(), indices.end(), begin);
    const auto batch = dataset.get_batch(indices);
    const auto error = (model.forward(batch.data) - batch.target).to(torch::kFloat64);
    sum += error.square().sum().item<double>();
  }
  return sum / static_cast<double>(size);
}

Baselines compute_baselines(const datasets::FinancialDataset& train, const datasets::FinancialDataset& test) {
  const auto train_targets = train.targets();
  const double train_mean = mean(train_targets.begin(), train_targets.end());
  Baselines sums;
  std::optional<size_t> instrument;  // whose `series` it is
  std::vector<float> series;
  double ewma = 0;
  int64_t known = 0;  // days that `ewma` holds
  const size_t size = *test.size();
  for (size_t i = 0; i < size; ++i) {
    if (instrument != test.target_instrument(i)) {
      instrument = test.target_instrument(i);
      series = test.target_series(*instrument);
      ewma = series.front();
      known = 1;
    }
    const int64_t row = test.target_row(i);
    for (; known < row; ++known) ewma = kEwmaDecay * ewma + (1 - kEwmaDecay) * series[known];
    const double truth = test.target(i);
    const auto square = [&](double forecast) { return (forecast - truth) * (forecast - truth); };
    const auto today = series.begin() + row;
    sums.mean += square(train_mean);
    sums.persistence += square(*(today - 1));
    sums.rolling_mean_10 += square(mean(today - std::min(row, kRollingDays), today));
    sums.ewma += square(ewma);
  }
  const double count = static_cast<double>(size);
  return {sums.mean / count, sums.persistence / count, sums.rolling_mean_10 / count, sums.ewma / count};
}

std::string Metrics::to_json() const {
  const nlohmann::ordered_json json = {
      {"target", target},
      {"epochs", epochs},
      {"train_loss", train_loss},
      {"validation_loss", validation_loss},
      {"test_mse", test_mse},
      {"base_model_test_mse", base_model_test_mse},
      {"baselines",
       {{"mean", baselines.mean},
        {"persistence", baselines.persistence},
        {"rolling_mean_10", baselines.rolling_mean_10},
        {"ewma", baselines.ewma}}},
      {"samples_per_second", samples_per_second},
      {"data_wait_fraction", data_wait_fraction},
      {"threads", {{"intra_op", intra_op_threads}, {"inter_op", inter_op_threads}}},
      {"num_workers", num_workers},
      {"libtorch_version", TORCH_VERSION},
      {"seed", seed},
  };
  return json.dump(2) + '\n';
}

std::string Metrics::to_table() const {
  std::vector<std::pair<double, std::string>> rows{
      {test_mse, "fine-tuned model"},
      {base_model_test_mse, "model before fine-tuning"},
      {baselines.mean, "mean of the training part"},
      {baselines.persistence, "the day before"},
      {baselines.rolling_mean_10, "mean of 10 days before"},
      {baselines.ewma, "exponential mean, decay 0.85"},
  };
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string table = "forecast of next day's " + target + "        test MSE\n";
  for (const auto& [error, name] : rows) {
    char line[80];
    std::snprintf(line, sizeof line, "%c %-32s %10.4f\n", name == "fine-tuned model" ? '>' : ' ', name.c_str(), error);
    table += line;
  }
  return table;
}

}  // namespace torchfeed::finetune
