/// Makes a TorchScript model, compiled from source text, to be trained by finetune: [B, L, N] float32 -> [B] float32.

#include <torch/script.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/command_line.h"
#include "common/files.h"
#include "common/program.h"

namespace torchfeed {
namespace {

struct Options {
  std::string arch;
  int64_t features = 0;
  int64_t sequence_length = 0;
  int64_t hidden = 0;
  std::string output;
  int64_t seed = 1;
};

/// A module in the making: parameters by the names that PyTorch's own modules give them, and source text.
class ModuleBuilder {
 public:
  explicit ModuleBuilder(const std::string& type)
      : units_(std::make_shared<torch::jit::CompilationUnit>()), module_(make_module(type)) {}

  /// Adds `name.key` for each shape, uniform in +-1 / sqrt(fan_in), as PyTorch's GRU, Conv1d and Linear begin.
  void add_layer(const std::string& name, const std::vector<std::pair<std::string, std::vector<int64_t>>>& shapes,
                 int64_t fan_in) {
    torch::jit::Module layer = make_module(name);
    const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
    for (const auto& [key, shape] : shapes) {
      layer.register_parameter(key, torch::empty(shape).uniform_(-bound, bound), /*is_buffer=*/false);
    }
    module_.register_module(name, layer);
  }

  void add_linear(const std::string& name, int64_t inputs, int64_t outputs) {
    add_layer(name, {{"weight", {outputs, inputs}}, {"bias", {outputs}}}, inputs);
  }

  torch::jit::Module build(const std::string& source) {
    module_.define(source);
    return module_;
  }

 private:
  /// With the attribute that train() and eval() set, and that Python reads.
  torch::jit::Module make_module(const std::string& type) const {
    torch::jit::Module module("__torch__.torchfeed." + type, units_);
    module.register_attribute("training", c10::BoolType::get(), true);
    return module;
  }

  std::shared_ptr<torch::jit::CompilationUnit> units_;
  torch::jit::Module module_;
};

/// Refuses another shape with both shapes. `length` is "L" where any length will do.
std::string shape_check(const std::string& length, int64_t features) {
  std::ostringstream source;
  source << "    assert x.dim() == 3 and x.size(2) == " << features;
  if (length != "L") source << " and x.size(1) == " << length;
  source << ", 'expected input [B, " << length << ", " << features << "], got ' + str(list(x.size()))\n";
  return source.str();
}

/// One GRU layer, and a linear layer on its last state. Takes windows of any length.
torch::jit::Module make_gru(const Options& options) {
  const int64_t hidden = options.hidden;
  ModuleBuilder builder("Gru");
  builder.add_layer("gru",
                    {{"weight_ih", {3 * hidden, options.features}},
                     {"weight_hh", {3 * hidden, hidden}},
                     {"bias_ih", {3 * hidden}},
                     {"bias_hh", {3 * hidden}}},
                    hidden);
  builder.add_linear("head", hidden, 1);
  std::ostringstream source;
  source << "def forward(self, x):\n"
         << shape_check("L", options.features)  //
         << "    state = torch.zeros([1, x.size(0), " << hidden << "], dtype=x.dtype, device=x.device)\n"
         << "    weights = [self.gru.weight_ih, self.gru.weight_hh, self.gru.bias_ih, self.gru.bias_hh]\n"
         << "    states, last = torch.gru(x, state, weights, True, 1, 0.0, False, False, True)\n"
         << "    return torch.linear(last[0], self.head.weight, self.head.bias).squeeze(1)\n";
  return builder.build(source.str());
}

/// Residual causal convolutions of width 3, dilated by powers of two until the last step sees the whole window
/// (Bai, Kolter and Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks"), and a
/// linear layer on the last step. Takes windows of any length.
torch::jit::Module make_tcn(const Options& options) {
  ModuleBuilder builder("Tcn");
  builder.add_linear("input", options.features, options.hidden);
  std::ostringstream source;
  source << "def forward(self, x):\n"
         << shape_check("L", options.features)
         << "    y = torch.linear(x, self.input.weight, self.input.bias).transpose(1, 2)\n";
  int64_t seen = 1;
  for (int64_t level = 0, dilation = 1; level == 0 || seen < options.sequence_length; ++level, dilation *= 2) {
    const std::string name = "conv" + std::to_string(level);
    builder.add_layer(name, {{"weight", {options.hidden, options.hidden, 3}}, {"bias", {options.hidden}}},
                      3 * options.hidden);
    source << "    past = torch.constant_pad_nd(y, [" << 2 * dilation << ", 0], 0.0)\n"
           << "    y = y + torch.relu(torch.conv1d(past, self." << name << ".weight, self." << name
           << ".bias, [1], [0], [" << dilation << "], 1))\n";
    seen += 2 * dilation;
  }
  builder.add_linear("head", options.hidden, 1);
  source << "    return torch.linear(y.select(2, -1), self.head.weight, self.head.bias).squeeze(1)\n";
  return builder.build(source.str());
}

/// The flattened window through two hidden layers. Takes windows of one length.
torch::jit::Module make_mlp(const Options& options) {
  ModuleBuilder builder("Mlp");
  builder.add_linear("hidden0", options.sequence_length * options.features, options.hidden);
  builder.add_linear("hidden1", options.hidden, options.hidden);
  builder.add_linear("head", options.hidden, 1);
  return builder.build("def forward(self, x):\n" +
                       shape_check(std::to_string(options.sequence_length), options.features) +
                       "    y = torch.relu(torch.linear(x.flatten(1), self.hidden0.weight, self.hidden0.bias))\n"
                       "    y = torch.relu(torch.linear(y, self.hidden1.weight, self.hidden1.bias))\n"
                       "    return torch.linear(y, self.head.weight, self.head.bias).squeeze(1)\n");
}

torch::jit::Module make_model(const Options& options) {
  if (options.arch == "gru") return make_gru(options);
  if (options.arch == "tcn") return make_tcn(options);
  return make_mlp(options);
}

int64_t parameter_count(const torch::jit::Module& model) {
  int64_t count = 0;
  for (const auto& parameter : model.parameters()) count += parameter.numel();
  return count;
}

void add_options(CLI::App& app, Options& options) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.add_option("--arch", options.arch, "gru, tcn (dilated convolutions) or mlp")
      ->required()
      ->check(CLI::IsMember({"gru", "tcn", "mlp"}));
  app.add_option("--features", options.features, "Features a row, N")->required()->check(CLI::Range(1, 4096));
  app.add_option("--sequence-length", options.sequence_length, "Rows in a window, L")
      ->required()
      ->check(CLI::Range(1, 65536));
  app.add_option("--hidden", options.hidden, "Width of hidden layers")->required()->check(CLI::Range(1, 4096));
  app.add_option("--output", options.output, "File to write")->required();
  app.add_option("--seed", options.seed, "Seed of the parameters' first values")
      ->check(CLI::Range(int64_t{0}, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Makes a TorchScript model to be trained by finetune: [B, L, N] float32 -> [B] float32.");
  add_options(app, options);
  if (!program::parse(app, argc, argv)) return 0;
  torch::manual_seed(static_cast<uint64_t>(options.seed));
  auto model = make_model(options);
  model.eval();
  {
    const torch::NoGradGuard no_grad;
    const auto output = model.forward({torch::zeros({2, options.sequence_length, options.features})}).toTensor();
    TORCH_CHECK(output.sizes() == at::IntArrayRef({2}), "expected output [2], got ", output.sizes());
  }
  std::ostringstream bytes;
  model.save(bytes);
  program::write_file_atomically(options.output, bytes.str());
  std::printf("%s: %s, [B, %lld, %lld] -> [B], %lld parameters\n", options.output.c_str(), options.arch.c_str(),
              static_cast<long long>(options.sequence_length), static_cast<long long>(options.features),
              static_cast<long long>(parameter_count(model)));
  return 0;
}

}  // namespace
}  // namespace torchfeed

int main(int argc, char** argv) {
  return torchfeed::program::run("make_model", [&] { return torchfeed::run(argc, argv); });
}
