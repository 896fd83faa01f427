#include "model.h"

#include <regex>
#include <sstream>
#include <utility>

#include "../common/program.h"

namespace torchfeed::finetune {
namespace {

using program::InputError;

torch::jit::Module load(const std::string& bytes, const std::string& name) {
  try {
    std::istringstream stream(bytes);
    return torch::jit::load(stream, torch::kCPU);
  } catch (const std::exception& error) {
    throw InputError(name + ": cannot be read as a TorchScript model, it may be cut short or something else: " +
                     program::one_line(error));
  }
}

template <typename... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

std::regex compile(const std::string& pattern) {
  try {
    return std::regex(pattern);
  } catch (const std::regex_error& error) {
    throw InputError("--freeze '" + pattern + "': not a regular expression: " + error.what());
  }
}

}  // namespace

Model::Model(const std::string& bytes, std::string name) : name_(std::move(name)), module_(load(bytes, name_)) {
  if (!module_.find_method("forward")) throw InputError(name_ + ": the model has no method forward");
  if (module_.parameters().size() == 0) {
    throw InputError(name_ + ": the model has no parameters to train (was it frozen with torch.jit.freeze?)");
  }
}

void Model::check_shapes(const torch::Tensor& input) {
  const torch::NoGradGuard no_grad;
  const int64_t batch = input.size(0);
  const std::string expected = text_of("expected output [", batch, "] or [", batch, ", 1] for input ", input.sizes());
  module_.eval();
  torch::IValue output;
  try {
    output = module_.forward({input});
  } catch (const std::exception& error) {
    throw InputError(text_of(name_, ": forward does not take input ", input.sizes(), ": ", program::one_line(error)));
  }
  if (!output.isTensor()) throw InputError(text_of(name_, ": ", expected, ", got a ", output.tagKind()));
  const torch::Tensor result = output.toTensor();
  if (result.sizes() != at::IntArrayRef({batch}) && result.sizes() != at::IntArrayRef({batch, 1})) {
    throw InputError(text_of(name_, ": ", expected, ", got ", result.sizes()));
  }
  if (result.scalar_type() != torch::kFloat32) {
    throw InputError(text_of(name_, ": expected output of type Float, got ", result.scalar_type()));
  }
  if (!result.isfinite().all().item<bool>()) {
    throw InputError(text_of(name_, ": the model gives numbers that are not finite"));
  }
}

std::vector<torch::Tensor> Model::trainable_parameters(const std::string& freeze) {
  const std::regex pattern = compile(freeze);
  std::vector<torch::Tensor> trainable;
  std::string names;
  bool matched = false;
  for (const auto& parameter : module_.named_parameters()) {
    const bool frozen = !freeze.empty() && std::regex_search(parameter.name, pattern);
    matched = matched || frozen;
    names += (names.empty() ? "" : ", ") + parameter.name;
    if (!parameter.value.is_floating_point()) continue;
    parameter.value.set_requires_grad(!frozen);
    if (!frozen) trainable.push_back(parameter.value);
  }
  if (!freeze.empty() && !matched) {
    throw InputError("--freeze '" + freeze + "': matches no parameter of " + name_ + ", which has " + names);
  }
  if (trainable.empty()) throw InputError("--freeze '" + freeze + "': leaves no parameter of " + name_ + " to train");
  return trainable;
}

torch::Tensor Model::forward(const torch::Tensor& input) {
  return module_.forward({input}).toTensor().reshape({input.size(0)});
}

std::string Model::bytes() const {
  std::ostringstream stream;
  module_.save(stream);
  return stream.str();
}

}  // namespace torchfeed::finetune
