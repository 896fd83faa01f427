#pragma once

#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/program_run.h"

namespace torchfeed::testing {

inline nlohmann::json metrics_of(const std::string& output) {
  return nlohmann::json::parse(read_text(output + "/metrics.json"));
}

/// Expects that two runs of finetune gave the same figures and the same model, to the bit.
inline void expect_same_result(const std::string& output, const std::string& expected) {
  const nlohmann::json metrics = metrics_of(output);
  const nlohmann::json expected_metrics = metrics_of(expected);
  for (const char* key : {"epochs", "train_loss", "validation_loss", "test_mse", "base_model_test_mse", "baselines"}) {
    EXPECT_EQ(metrics[key], expected_metrics[key]) << key;
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
  for (size_t i = 0; i < tensors.size(); ++i) EXPECT_TRUE(torch::equal(tensors[i], expected_tensors[i])) << i;
}

}  // namespace torchfeed::testing
