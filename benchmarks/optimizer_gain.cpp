/// What optimize_system_for_training() gains: training steps of several models, under LibTorch's own thread counts and
/// after the call, alone or told what tensors the model works on, each in processes of its own (LibTorch's defaults
/// cannot be had back in a process that has changed them), in turn, so that what else the machine does meets both. See
/// `optimizer_gain --help`.

#include <sys/resource.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/torch.h>
#include <torchfeed/datasets/financial_dataset.h>
#include <torchfeed/plugin/threading_optimizer.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/files.h"
#include "finetune/model.h"
#include "finetune/options.h"
#include "finetune/trainer.h"

namespace torchfeed {
namespace {

using Step = std::function<void()>;

/// A step of AdamW on the mean squared error of `model` over one batch.
template <typename Forward>
Step training_step(std::vector<torch::Tensor> parameters, Forward forward, torch::Tensor target) {
  auto optimizer = std::make_shared<torch::optim::AdamW>(std::move(parameters), torch::optim::AdamWOptions(1e-4));
  return [optimizer, forward, target]() mutable {
    optimizer->zero_grad();
    torch::mse_loss(forward(), target).backward();
    optimizer->step();
  };
}

Step mlp(int64_t batch, int64_t inputs, int64_t hidden) {
  torch::nn::Sequential model(torch::nn::Linear(inputs, hidden), torch::nn::ReLU(), torch::nn::Linear(hidden, hidden),
                              torch::nn::ReLU(), torch::nn::Linear(hidden, 1));
  const auto x = torch::randn({batch, inputs});
  return training_step(
      model->parameters(), [model, x]() mutable { return model->forward(x); }, torch::randn({batch, 1}));
}

Step gru(int64_t batch, int64_t length, int64_t hidden) {
  torch::nn::GRU model(torch::nn::GRUOptions(4, hidden).batch_first(true));
  const auto x = torch::randn({batch, length, 4});
  return training_step(
      model->parameters(), [model, x]() mutable { return std::get<0>(model->forward(x)).select(1, -1); },
      torch::randn({batch, hidden}));
}

Step lstm(int64_t batch, int64_t length, int64_t hidden) {
  torch::nn::LSTM model(torch::nn::LSTMOptions(4, hidden).batch_first(true));
  const auto x = torch::randn({batch, length, 4});
  return training_step(
      model->parameters(), [model, x]() mutable { return std::get<0>(model->forward(x)).select(1, -1); },
      torch::randn({batch, hidden}));
}

Step convolutions(int64_t batch, int64_t size, int64_t channels) {
  const auto conv = [](int64_t from, int64_t to) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(from, to, 3).padding(1));
  };
  torch::nn::Sequential model(conv(3, channels), torch::nn::BatchNorm2d(channels), torch::nn::ReLU(),
                              conv(channels, 2 * channels), torch::nn::ReLU(), torch::nn::AdaptiveAvgPool2d(1));
  const auto x = torch::randn({batch, 3, size, size});
  return training_step(
      model->parameters(), [model, x]() mutable { return model->forward(x); },
      torch::randn({batch, 2 * channels, 1, 1}));
}

Step transformer(int64_t batch, int64_t length, int64_t width) {
  torch::nn::TransformerEncoderLayer model(
      torch::nn::TransformerEncoderLayerOptions(width, 4).dim_feedforward(4 * width).dropout(0));
  const auto x = torch::randn({length, batch, width});
  return training_step(
      model->parameters(), [model, x]() mutable { return model->forward(x); }, torch::randn({length, batch, width}));
}

#if __has_include(<ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>)
/// LibTorch's own kernel, which multiplies matrices inside of its threads.
Step attention(int64_t batch, int64_t heads, int64_t length, int64_t width) {
  std::vector<torch::Tensor> parameters;
  for (int i = 0; i < 3; ++i) parameters.push_back(torch::randn({batch, heads, length, width}).requires_grad_());
  return training_step(
      parameters,
      [parameters] { return at::scaled_dot_product_attention(parameters[0], parameters[1], parameters[2]); },
      torch::zeros({batch, heads, length, width}));
}
#endif

/// Elementwise operators on more memory than caches hold, as features of market data are computed.
Step elementwise(int64_t numbers) {
  auto parameter = torch::randn({numbers}).requires_grad_();
  return training_step(
      {parameter}, [parameter] { return torch::tanh(parameter * 0.5) + torch::exp(-parameter * parameter); },
      torch::zeros({numbers}));
}

/// Many small operators: what threads can only make slower.
Step tiny() {
  auto parameter = torch::randn({64}).requires_grad_();
  return training_step(
      {parameter},
      [parameter] {
        auto x = parameter;
        for (int i = 0; i < 30; ++i) x = x * 1.01 + 0.1;
        return x;
      },
      torch::zeros({64}));
}

/// What ./scripts/finetune.sh does with each batch: its model, data and step.
Step finetune() {
  finetune::Options options;
  options.model = std::string(TORCHFEED_DATA_DIR) + "/base_gru.pt";
  options.data = {std::string(TORCHFEED_DATA_DIR) + "/sp500.csv"};
  options.from = "2010-01-01";
  options.to = "2020-04-17";
  const auto dataset = datasets::FinancialDataset::open(options.data, options.dataset_options());
  // As in finetune, which says why.
  const auto no_graph_optimizer = std::make_shared<torch::jit::GraphOptimizerEnabledGuard>(false);
  return [no_graph_optimizer,
          step = finetune::practice_step(
              options, dataset, finetune::Model(program::read_file(options.model), options.model))] { step(); };
}

struct Training {
  const char* name;
  const char* what;
  /// Bytes of the tensors that most operators write.
  std::uint64_t activation_bytes;
  Step (*make)();
};

constexpr Training kWorkloads[] = {
    {"mlp", "MLP 1024-1024-1024-1, batch 256", 256 * 1024 * 4, [] { return mlp(256, 1024, 1024); }},
    {"small_mlp", "MLP 200-64-64-1, batch 32", 32 * 64 * 4, [] { return mlp(32, 200, 64); }},
    {"conv", "two convolutions, 32 x 3 x 64 x 64", 32 * 32 * 64 * 64 * 4, [] { return convolutions(32, 64, 32); }},
    {"transformer", "encoder layer of width 256, 16 x 64", 16 * 64 * 256 * 4, [] { return transformer(16, 64, 256); }},
#if __has_include(<ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>)
    {"attention", "attention, 8 x 8 heads x 256 x 32", 8 * 8 * 256 * 32 * 4, [] { return attention(8, 8, 256, 32); }},
#endif
    {"gru", "GRU 256, batch 64, 50 steps", 64 * 256 * 4, [] { return gru(64, 50, 256); }},
    {"small_gru", "GRU 32, batch 32, 50 steps", 32 * 32 * 4, [] { return gru(32, 50, 32); }},
    {"small_lstm", "LSTM 32, batch 32, 50 steps", 32 * 32 * 4, [] { return lstm(32, 50, 32); }},
    {"finetune", "the step of ./scripts/finetune.sh", 32 * 32 * 4, [] { return finetune(); }},
    {"medium", "tanh and exp of 128 K numbers", 131'072 * 4, [] { return elementwise(131'072); }},
    {"elementwise", "tanh and exp of 4 M numbers", 4'000'000 * 4, [] { return elementwise(4'000'000); }},
    {"tiny", "60 operators on 64 numbers", 64 * 4, [] { return tiny(); }},
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// CPU time that the machine has spent at work and stolen by its host, and this process's own, in seconds.
struct CpuTime {
  double machine = 0;
  double own = 0;
};

CpuTime cpu_time() {
  CpuTime time;
  std::ifstream file("/proc/stat");
  std::string name;
  double field = 0;
  file >> name;
  for (int i = 0; i < 8 && file >> field; ++i)  // user nice system idle iowait irq softirq steal
    if (i != 3 && i != 4) time.machine += field / static_cast<double>(::sysconf(_SC_CLK_TCK));
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  for (const timeval& part : {usage.ru_utime, usage.ru_stime})
    time.own += static_cast<double>(part.tv_sec) + 1e-6 * static_cast<double>(part.tv_usec);
  return time;
}

/// Sleeps until nobody works on the machine, or `deadline`.
void wait_for_quiet(std::chrono::steady_clock::time_point deadline) {
  constexpr std::chrono::milliseconds kLook{60};
  for (double busy = 1; busy > 0.011 && std::chrono::steady_clock::now() < deadline;) {
    const double before = cpu_time().machine;
    std::this_thread::sleep_for(kLook);
    busy = cpu_time().machine - before;
  }
}

/// The median step of this process in seconds, from steps during which nobody else took much of the machine: what has
/// to share its core shows nothing of threads. Gives up waiting for such after `patience` seconds, and takes all then;
/// with a patience of 0 it takes all at once.
struct Measured {
  double seconds = 0;
  bool alone = true;
};

Measured measure(const Training& workload, double seconds, double patience) {
  constexpr double kBlockSeconds = 0.1;  // the kernel counts in hundredths
  constexpr double kOthersMost = 0.03;   // of one core
  torch::manual_seed(1);
  const Step step = workload.make();
  step();
  std::vector<double> alone, all;
  double alone_seconds = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto deadline =
      begin + std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(patience));
  while ((alone.size() < 3 || alone_seconds < seconds) &&
         (all.empty() || patience == 0 || seconds_since(begin) < patience)) {
    if (patience > 0) wait_for_quiet(deadline);
    step();
    const auto block_begin = std::chrono::steady_clock::now();
    const CpuTime before = cpu_time();
    std::vector<double> times;
    do {
      const auto step_begin = std::chrono::steady_clock::now();
      step();
      times.push_back(seconds_since(step_begin));
    } while (seconds_since(block_begin) < kBlockSeconds);
    const CpuTime after = cpu_time();
    const double block_seconds = seconds_since(block_begin);
    const double others = (after.machine - before.machine) - (after.own - before.own);
    all.insert(all.end(), times.begin(), times.end());
    if (patience > 0 && others > std::max(kOthersMost * block_seconds, 0.011)) continue;
    alone.insert(alone.end(), times.begin(), times.end());
    alone_seconds += block_seconds;
  }
  if (alone.size() >= 3) return {median(std::move(alone)), true};
  return {median(std::move(all)), false};
}

/// How long and how often to measure.
struct Effort {
  /// Threads inside operators before the plan: as if LibTorch took so many by itself; 0: its own number.
  int own_threads = 0;
  /// Whether the plan is told what tensors the model's operators write.
  bool told = false;
  int rounds = 7;
  double seconds = 0.5;
  double patience = 20;
};

/// Runs this program anew and reads what it prints.
Measured measure_in_a_process(const std::string& self, const Training& workload, const char* mode,
                              const Effort& effort) {
  const std::string command = "'" + self + "' --measure " + workload.name + " " + mode + " " +
                              std::to_string(effort.seconds) + " " + std::to_string(effort.patience) + " " +
                              std::to_string(effort.own_threads);
  FILE* pipe = ::popen(command.c_str(), "r");
  Measured result;
  int alone = 0;
  const bool read = pipe != nullptr && std::fscanf(pipe, "%lf %d", &result.seconds, &alone) == 2;
  result.alone = alone != 0;
  if (pipe == nullptr || ::pclose(pipe) != 0 || !read) throw std::runtime_error("failed: " + command);
  return result;
}

void compare(const std::string& self, const Training& workload, const Effort& effort) {
  std::vector<double> before, after, ratios;
  int disturbed = 0;
  for (int round = 0; round < effort.rounds; ++round) {
    // The order changes, so that neither always follows the other.
    for (const bool optimized : {round % 2 == 1, round % 2 == 0}) {
      const char* const mode = !optimized ? "default" : effort.told ? "told" : "plan";
      const Measured measured = measure_in_a_process(self, workload, mode, effort);
      (optimized ? after : before).push_back(measured.seconds);
      disturbed += !measured.alone;
    }
    ratios.push_back(before.back() / after.back());
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf("%-12s %10.3f %10.3f %7.2fx  %.2f to %.2f   %s", workload.name, 1e3 * median(before), 1e3 * median(after),
              median(ratios), ratios.front(), ratios.back(), workload.what);
  if (disturbed > 0) std::printf("; others took cores meanwhile in %d of %d processes", disturbed, 2 * effort.rounds);
  std::printf("\n");
  std::fflush(stdout);
}

const Training& find(const std::string& name) {
  for (const Training& workload : kWorkloads)
    if (name == workload.name) return workload;
  std::string names;
  for (const Training& workload : kWorkloads) names += std::string(names.empty() ? "" : ", ") + workload.name;
  throw std::runtime_error("expected a workload's name (" + names + "), got '" + name + "'");
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() >= 5 && arguments[0] == "--measure") {
    const Training& workload = find(arguments[1]);
    const int threads = arguments.size() > 5 ? std::stoi(arguments[5]) : 0;
    if (threads > 0) at::set_num_threads(threads);
    if (arguments[2] != "default") {
      Workload known;
      if (arguments[2] == "told") known.activation_bytes = workload.activation_bytes;
      optimize_system_for_training({.verbose = false}, known);
    }
    const Measured measured = measure(workload, std::stod(arguments[3]), std::stod(arguments[4]));
    std::printf("%.9f %d\n", measured.seconds, measured.alone);
    return 0;
  }
  Effort effort;
  std::vector<Training> chosen;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool value = i + 1 < arguments.size();
    if (arguments[i] == "--rounds" && value) {
      effort.rounds = std::max(1, std::stoi(arguments[++i]));
    } else if (arguments[i] == "--seconds" && value) {
      effort.seconds = std::stod(arguments[++i]);
    } else if (arguments[i] == "--patience" && value) {
      effort.patience = std::stod(arguments[++i]);
    } else if (arguments[i] == "--told") {
      effort.told = true;
    } else if (arguments[i] == "--own-threads" && value) {
      effort.own_threads = std::max(1, std::stoi(arguments[++i]));
    } else if (arguments[i] == "--workload" && value) {
      chosen.push_back(find(arguments[++i]));
    } else {
      std::printf(
          "usage: optimizer_gain [--rounds N] [--seconds S] [--patience S] [--own-threads N] [--told] "
          "[--workload NAME]...\n"
          "  Each process measures for --seconds while nobody else works on the machine, and waits for that up "
          "to --patience; with --patience 0 it takes the machine as it is. --own-threads: as a LibTorch that takes N "
          "threads by itself. --told: with Workload::activation_bytes.\n");
      for (const Training& workload : kWorkloads) std::printf("  %-12s %s\n", workload.name, workload.what);
      return arguments[i] == "--help" ? 0 : 2;
    }
  }
  if (chosen.empty()) chosen.assign(std::begin(kWorkloads), std::end(kWorkloads));
  char self[4096];
  const ssize_t length = ::readlink("/proc/self/exe", self, sizeof(self));
  if (length < 0) throw std::runtime_error("cannot read /proc/self/exe");
  if (effort.own_threads > 0) at::set_num_threads(effort.own_threads);
  std::printf("LibTorch %s, %d threads in operators; medians of %d processes of %g s each\n", TORCH_VERSION,
              at::get_num_threads(), effort.rounds, effort.seconds);
  const ThreadPlan plan = ThreadingOptimizer().plan();
  std::printf("the plan: threads%s%s%s%s\n", plan.blas_on_openmp ? ", OpenBLAS's products on OpenMP's" : "",
              plan.tensor_memory > 0 ? ", freed tensors' memory is kept" : "",
              plan.onednn_rnn ? ", recurrent layers in oneDNN" : "",
              plan.blas_kernels.empty() ? "" : (", OpenBLAS's kernels for " + plan.blas_kernels).c_str());
  std::printf("%-12s %10s %10s %8s  %s\n", "workload", "default ms", "plan ms", "gain", "least to most");
  for (const Training& workload : chosen) compare(std::string(self, static_cast<size_t>(length)), workload, effort);
  return 0;
}

}  // namespace
}  // namespace torchfeed

int main(int argc, char** argv) {
  try {
    return torchfeed::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "optimizer_gain: %s\n", error.what());
    return 2;
  }
}
