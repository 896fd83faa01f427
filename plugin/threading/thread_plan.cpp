#include <torchfeed/plugin/threading/thread_plan.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace torchfeed::threading {
namespace {

/// More workers than these wait for memory rather than for cores, with most data; kAuto finds out for itself.
constexpr int kMostDataloaderWorkers = 4;

std::string count(int number, const char* one) { return std::to_string(number) + " " + one + (number == 1 ? "" : "s"); }

std::string decimal(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", number);
  return text;
}

/// A number that was decided, and why.
struct Decision {
  int value = 0;
  std::string why;
};

Decision decide_cores(const PlanInputs& inputs) {
  const CpuTopology& topology = inputs.topology;
  // The reason is intra_op's, where nothing else decides it.
  Decision cores{topology.physical_cores, "one thread for each of " + count(topology.physical_cores, "physical core")};
  if (topology.smt()) cores.why += " (not their " + count(topology.logical_cores, "hardware thread") + ")";
  if (!inputs.quota) return cores;
  // Rounded up, as half a CPU's time still needs a thread to be used.
  const int quota = std::max(1, static_cast<int>(std::min<double>(kMaxThreads, std::ceil(inputs.quota->cpus - 1e-6))));
  if (quota < cores.value)
    cores = {quota, "the CPU quota of " + decimal(inputs.quota->cpus) + " in " + inputs.quota->source + ", rounded up"};
  return cores;
}

Decision decide_intra_op(const PlanInputs& inputs, const Decision& cores) {
  const ThreadVariables& variables = inputs.variables;
  if (inputs.intra_op > 0) {
    Decision result{inputs.intra_op, "asked for by the option intra_op"};
    if (variables.omp_num_threads)
      result.why += ", which goes before OMP_NUM_THREADS=" + std::to_string(*variables.omp_num_threads);
    return result;
  }
  if (variables.omp_num_threads) return {*variables.omp_num_threads, "the environment's OMP_NUM_THREADS"};
  if (variables.mkl_num_threads) return {*variables.mkl_num_threads, "the environment's MKL_NUM_THREADS"};
  return cores;
}

Decision decide_inter_op(const PlanInputs& inputs, const Decision& cores, int intra_op) {
  if (inputs.inter_op > 0) return {inputs.inter_op, "asked for by the option inter_op"};
  const int left = std::max(1, cores.value / intra_op);
  return {left, left == 1 ? "one operator at a time, as each uses intra_op threads"
                          : "as many operators at a time as intra_op threads fit into the cores"};
}

Decision decide_blas(const PlanInputs& inputs, int intra_op) {
  const ThreadVariables& variables = inputs.variables;
  const std::string name = blas_library_name(inputs.blas);
  switch (inputs.blas) {
    case BlasLibrary::kNone:
      return {0, name + " was found, so nothing is set"};
    case BlasLibrary::kOpenBlas:
      if (variables.openblas_num_threads)
        return {*variables.openblas_num_threads, "the environment's OPENBLAS_NUM_THREADS"};
      break;
    case BlasLibrary::kMkl:
      if (variables.mkl_num_threads) return {*variables.mkl_num_threads, "the environment's MKL_NUM_THREADS"};
      break;
    case BlasLibrary::kOpenBlasOnOpenMp:
      return {intra_op, name + " follows intra_op"};
  }
  return {intra_op, name + "'s own threads, as many as intra_op"};
}

Decision decide_dataloader(const Decision& cores) {
  if (cores.value == 1) return {0, "batches are made inline, as one core has nothing to share"};
  const int workers = std::min(cores.value - 1, kMostDataloaderWorkers);
  return {workers, "worker processes beside the trainer, which keeps at least a core"};
}

std::optional<int> read_variable(const char* name, const char* text, std::vector<std::string>& notes) {
  if (!text || !*text) return std::nullopt;
  std::string_view value(text);
  value = value.substr(0, value.find(','));
  while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
  while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
  int number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error == std::errc() && end == value.data() + value.size() && number >= 1 && number <= kMaxThreads) return number;
  notes.push_back(std::string(name) + "=" + text + " is left out: expected 1 to " + std::to_string(kMaxThreads) +
                  " threads");
  return std::nullopt;
}

}  // namespace

ThreadVariables read_thread_variables(const std::function<const char*(const char*)>& get) {
  const auto read = [&](const char* name, std::vector<std::string>& notes) {
    return read_variable(name, get ? get(name) : std::getenv(name), notes);
  };
  ThreadVariables variables;
  variables.omp_num_threads = read("OMP_NUM_THREADS", variables.notes);
  variables.mkl_num_threads = read("MKL_NUM_THREADS", variables.notes);
  variables.openblas_num_threads = read("OPENBLAS_NUM_THREADS", variables.notes);
  return variables;
}

PlannedThreads plan_threads(const PlanInputs& inputs) {
  const Decision cores = decide_cores(inputs);
  const Decision intra_op = decide_intra_op(inputs, cores);
  const Decision inter_op = decide_inter_op(inputs, cores, intra_op.value);
  const Decision blas = decide_blas(inputs, intra_op.value);
  const Decision dataloader = decide_dataloader(cores);
  PlannedThreads plan{intra_op.value, inter_op.value, blas.value, dataloader.value, {}};
  const auto say = [&](const char* name, const Decision& decision) {
    plan.reasons.push_back(std::string(name) + " = " + std::to_string(decision.value) + ": " + decision.why);
  };
  const CpuTopology& topology = inputs.topology;
  plan.reasons.push_back("physical_cores = " + std::to_string(topology.physical_cores) +
                         ", logical_cores = " + std::to_string(topology.logical_cores) +
                         ": inside the affinity mask, from " + topology.origin);
  say("intra_op", intra_op);
  say("inter_op", inter_op);
  say("blas", blas);
  say("dataloader", dataloader);
  plan.reasons.insert(plan.reasons.end(), inputs.variables.notes.begin(), inputs.variables.notes.end());
  if (inputs.intra_op == 0 && intra_op.value > cores.value)
    plan.reasons.push_back("intra_op is above the " + count(cores.value, "core") +
                           " to run on, as the environment asks");
  return plan;
}

}  // namespace torchfeed::threading
