#pragma once

#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/program_run.h"

namespace torchfeed::testing {

inline nlohmann::json metrics_of(const std::string& output) {
  return nlohmann::json::parse(read_text(output + "/metrics.json"));
}

/// Numbers that differ by no more than the share `tolerance`.
inline bool close(const nlohmann::json& a, const nlohmann::json& b, double tolerance) {
  if (a.is_array() || a.is_object()) {
    return a.type() == b.type() && a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(),
                      [tolerance](const nlohmann::json& x, const nlohmann::json& y) { return close(x, y, tolerance); });
  }
  if (tolerance == 0 || !a.is_number_float() || !b.is_number_float()) return a == b;
  return std::abs(a.get<double>() - b.get<double>()) <= tolerance * std::abs(b.get<double>());
}

/// Expects that two runs of finetune gave the same figures and the same model, to the bit without a tolerance.
inline void expect_same_result(const std::string& output, const std::string& expected, double tolerance = 0) {
  const nlohmann::json metrics = metrics_of(output);
  const nlohmann::json expected_metrics = metrics_of(expected);
  for (const char* key : {"epochs", "train_loss", "validation_loss", "test_mse", "base_model_test_mse", "baselines"}) {
    EXPECT_TRUE(close(metrics[key], expected_metrics[key], tolerance))
        << key << ": " << metrics[key] << ", expected " << expected_metrics[key];
  }
  const auto model = torch::jit::load(output + "/model.pt");
  const auto expected_model = torch::jit::load(expected + "/model.pt");
  std::vector<torch::Tensor> tensors;
  for (const auto& tensor : model.parameters()) tensors.push_back(tensor);
  for (const auto& tensor : model.buffers()) tensors.push_back(tensor);
  std::vector<torch::Tensor> expected_tensors;
  for (const auto& tensor : expected_model.parameters()) expected_tensors.push_back(tensor);
  for (const auto& tensor : expected_model.buffers()) expected_tensors.push_back(tensor);
  ASSERT_EQ(tensors.size(), expected_tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(tolerance == 0 ? torch::equal(tensors[i], expected_tensors[i])
                               : torch::allclose(tensors[i], expected_tensors[i], tolerance, tolerance))
        << i;
  }
}

}  // namespace torchfeed::testing
