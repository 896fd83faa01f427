#include <torchfeed/plugin/threading/library_plan.h>
#include <torchfeed/plugin/threading/planner.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <tuple>

namespace torchfeed {
namespace threading {
namespace {

/// More workers than these wait for memory rather than for cores with most data.
constexpr int kUsualWorkers = 4;
constexpr int kMostWorkers = 16;
/// What workers that wait may come to: they need no core, but memory and a process each.
constexpr int kLeastLimit = 16;
constexpr int kMostLimit = 64;
/// The loader's default: batches ahead for each worker.
constexpr std::uint64_t kPrefetch = 2;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
/// Data by samples and by bytes: tiny are read before a worker has started, small fit into caches, large take long.
constexpr std::uint64_t kTinySamples = 1'000, kSmallSamples = 10'000, kLargeSamples = 1'000'000;
constexpr std::uint64_t kSmallBytes = 64 * kMiB, kLargeBytes = 1024 * kMiB;

std::string count(int number, const std::string& one) {
  return std::to_string(number) + " " + one + (number == 1 ? "" : "s");
}

std::string decimal(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", number);
  return text;
}

std::string size_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto size = static_cast<double>(bytes);
  size_t unit = 0;
  for (; size >= 1024 && unit + 1 < std::size(kUnits); ++unit) size /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g %s", size, kUnits[unit]);
  return text;
}

/// A number that was decided, and why.
struct Decision {
  int value = 0;
  std::string why;
};

std::uint64_t product(std::uint64_t a, std::uint64_t b) {
  return b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b ? std::numeric_limits<std::uint64_t>::max()
                                                                     : a * b;
}

/// Of `cores`, of which `performance` are fast (0: all are alike), how many an operator should compute on. It splits
/// its work into equal parts and waits for the slowest: an efficiency core does about 1/1.8 of a performance core's
/// work, so n cores of both kinds do n / 1.8 where the fast ones alone do `performance`.
int fast_team(int performance, int cores) {
  constexpr double kPerformanceOverEfficiency = 1.8;
  return performance > 0 && performance < cores && performance * kPerformanceOverEfficiency >= cores ? performance
                                                                                                     : cores;
}

/// What everything else is decided from.
struct Budget {
  const PlanInputs& inputs;
  /// Cores, and of these those that compute together: a hybrid machine's fast ones.
  Decision cores;
  Decision compute;
  int reserved = 0;
  /// A hybrid machine's fast cores; 0 where all cores are alike.
  int performance = 0;

  /// How many processes of `bytes` each fit into half of the free memory.
  int fitting(std::uint64_t bytes) const {
    if (!inputs.memory || bytes == 0) return kMaxThreads;
    return static_cast<int>(std::min<std::uint64_t>(kMaxThreads, inputs.memory->bytes / 2 / bytes));
  }
  std::uint64_t worker_bytes() const {
    return inputs.workload.worker_bytes > 0 ? inputs.workload.worker_bytes : kDefaultWorkerBytes;
  }
  /// With the batches that it makes ahead.
  std::uint64_t loader_worker_bytes() const {
    const std::uint64_t batch = product(inputs.workload.batch_size, inputs.workload.sample_bytes);
    const std::uint64_t ahead = product(kPrefetch, batch);
    return worker_bytes() + std::min(ahead, std::numeric_limits<std::uint64_t>::max() - worker_bytes());
  }
  /// `decision`, or fewer where memory is short.
  Decision within_memory(Decision decision, std::uint64_t bytes, int least) const {
    const int fit = std::max(least, fitting(bytes));
    if (fit >= decision.value) return decision;
    return {fit, "memory is short: as many as fit into half of the " + size_text(inputs.memory->bytes) + " that " +
                     inputs.memory->source + " leaves, at " + size_text(bytes) + " a worker"};
  }
};

Budget make_budget(const PlanInputs& inputs) {
  const CpuTopology& topology = inputs.topology;
  Budget budget{inputs, {topology.physical_cores, "one thread for each of "}, {}, 0, 0};
  budget.cores.why += count(topology.physical_cores, "physical core");
  if (topology.smt()) budget.cores.why += " (not their " + count(topology.logical_cores, "hardware thread") + ")";
  budget.compute = budget.cores;
  const int performance = topology.count(CoreKind::kPerformance);
  if (performance < topology.physical_cores) budget.performance = performance;
  if (fast_team(budget.performance, topology.physical_cores) < topology.physical_cores) {
    budget.compute = {performance, "one thread for each of " + count(performance, "performance core") +
                                       ": an operator waits for its slowest thread, and the " +
                                       count(topology.physical_cores - performance, "efficiency core") +
                                       " would be that"};
  }
  if (inputs.quota) {
    // Rounded up, as half a CPU's time still needs a thread to be used.
    const int quota =
        std::max(1, static_cast<int>(std::min<double>(kMaxThreads, std::ceil(inputs.quota->cpus - 1e-6))));
    const Decision limited{
        quota, "the CPU quota of " + decimal(inputs.quota->cpus) + " in " + inputs.quota->source + ", rounded up"};
    if (quota < budget.cores.value) budget.cores = limited;
    if (quota < budget.compute.value) budget.compute = limited;
  }
  budget.reserved = budget.cores.value >= kEnoughCores ? 1 : 0;
  return budget;
}

Decision within_thread_limit(Decision decision, const ThreadVariables& variables) {
  if (variables.omp_thread_limit && *variables.omp_thread_limit < decision.value)
    return {*variables.omp_thread_limit, "the environment's OMP_THREAD_LIMIT"};
  return decision;
}

/// The number of threads that the user asks for, before anything of the machine.
std::optional<Decision> asked_for_by_user(const PlanInputs& inputs) {
  const ThreadVariables& variables = inputs.variables;
  if (inputs.intra_op > 0) {
    Decision result{inputs.intra_op, "asked for by the option intra_op"};
    if (variables.mkl_num_threads)
      result.why += ", which goes before MKL_NUM_THREADS=" + std::to_string(*variables.mkl_num_threads);
    if (variables.omp_num_threads)
      result.why += ", which goes before OMP_NUM_THREADS=" + std::to_string(*variables.omp_num_threads);
    return result;
  }
  if (variables.mkl_num_threads) return Decision{*variables.mkl_num_threads, "the environment's MKL_NUM_THREADS"};
  if (variables.omp_num_threads) return Decision{*variables.omp_num_threads, "the environment's OMP_NUM_THREADS"};
  return std::nullopt;
}

/// The same as OpenMP grants it.
std::optional<Decision> asked_for(const PlanInputs& inputs) {
  const auto asked = asked_for_by_user(inputs);
  return asked ? std::optional(within_thread_limit(*asked, inputs.variables)) : std::nullopt;
}

/// The most workers that the data are worth.
Decision worth_of_data(const Workload& workload, int cores) {
  const std::uint64_t samples = workload.dataset_size;
  const std::uint64_t bytes = product(samples, workload.sample_bytes);
  const std::string size = std::to_string(samples) + " samples" + (bytes > 0 ? " of " + size_text(bytes) : "");
  if (samples == 0) return {kUsualWorkers, "at most " + std::to_string(kUsualWorkers) + ", as the data are not known"};
  if (samples >= kLargeSamples || bytes >= kLargeBytes) {
    const int most = std::clamp(cores / 4, kUsualWorkers, kMostWorkers);
    return {most, "up to a quarter of the cores, " + std::to_string(kUsualWorkers) + " at least, for large data (" +
                      size + ")"};
  }
  Decision result{kUsualWorkers, "at most " + std::to_string(kUsualWorkers) + " for " + size};
  if (samples < kTinySamples && bytes < kSmallBytes)
    return {0, "batches are made inline, as small data (" + size + ") are read before a worker pays"};
  if (samples < kSmallSamples && bytes < kSmallBytes) result = {2, "at most 2 for small data (" + size + ")"};
  const std::uint64_t batches = (samples - 1) / std::max<std::uint64_t>(1, workload.batch_size) + 1;
  if (workload.batch_size > 0 && batches < static_cast<std::uint64_t>(result.value))
    result = {static_cast<int>(batches),
              "no more than the " + count(static_cast<int>(batches), "batch") + " there are"};
  return result;
}

Decision decide_dataloader(const Budget& budget) {
  const Workload& workload = budget.inputs.workload;
  Decision workers;
  if (workload.dataloader >= 0) {
    workers = {workload.dataloader, "asked for by the workload"};
  } else if (budget.cores.value == 1) {
    return {0, "batches are made inline, as one core has nothing to share"};
  } else {
    const int spare = budget.cores.value - budget.compute.value - budget.reserved;
    const bool beside = spare > 0;  // a hybrid machine's efficiency cores
    // Cores of their own are cores that the trainer loses: not many for workers of which nothing is known.
    const bool apart = budget.inputs.pin && budget.cores.value >= kEnoughCores;
    const int left = beside  ? spare
                     : apart ? budget.cores.value / 4
                             : std::max(1, budget.cores.value - 1 - budget.reserved);
    workers = worth_of_data(workload, budget.cores.value);
    if (left < workers.value)
      workers = {left, beside  ? "worker processes on the efficiency cores, which training leaves alone"
                       : apart ? "worker processes on a quarter of the cores, which the trainer loses to them"
                               : "worker processes beside the trainer, which keeps at least a core"};
    else if (workers.value > 0)
      workers.why = "worker processes beside the trainer, " + workers.why;
  }
  return budget.within_memory(workers, budget.loader_worker_bytes(), 0);
}

/// How the cores are divided between trainer and loader, where they are.
struct Division {
  bool divided = false;
  int trainer_cores = 0;
  int worker_cores = 0;
  /// Why not, where it was asked for.
  std::string refusal;
};

Division divide(const Budget& budget, int dataloader, const std::optional<Decision>& asked) {
  const PlanInputs& inputs = budget.inputs;
  Division division;
  const int cores = budget.cores.value;
  if (!inputs.pin && inputs.workload.dataloader <= 0) return division;
  if (dataloader == 0) return division;
  if (cores < kEnoughCores) {
    division.refusal = "it takes " + std::to_string(kEnoughCores) + " cores to set some apart, and there " +
                       (cores == 1 ? "is " : "are ") + std::to_string(cores);
    return division;
  }
  const int beside = cores - budget.compute.value - budget.reserved;
  division.worker_cores = std::min(dataloader, beside > 0 ? beside : cores / 2);
  if (asked) division.worker_cores = std::min(division.worker_cores, cores - budget.reserved - asked->value);
  if (division.worker_cores < 1) {
    division.refusal = "the " + count(asked->value, "thread") + " of intra_op leave no core of " +
                       std::to_string(cores) + " to workers and the system";
    return division;
  }
  division.divided = true;
  const int left = cores - budget.reserved - division.worker_cores;
  division.trainer_cores = asked ? asked->value : std::min(budget.compute.value, fast_team(budget.performance, left));
  return division;
}

/// Whether OpenMP's threads would mostly get in the way of OpenBLAS's: see kSomeCores. Unless it is known what the
/// operators work on, the number before the first plan tells, LibTorch's own or the program's: where that is one,
/// nothing is slower with it than without this plan.
bool one_thread_is_enough(const Budget& budget) {
  const PlanInputs& inputs = budget.inputs;
  const ThreadVariables& variables = inputs.variables;
  const std::uint64_t activation = inputs.workload.activation_bytes;
  const int cores = budget.compute.value;
  return inputs.blas == BlasLibrary::kOpenBlas && variables.openblas_num_threads.value_or(cores) > 1 && cores > 1 &&
         cores < kSomeCores && (activation == 0 ? inputs.default_intra_op == 1 : activation < kLargeActivation) &&
         !openmp_team_suits(inputs, std::min(cores, variables.omp_thread_limit.value_or(cores)));
}

Decision decide_intra_op(const Budget& budget, const Division& division, const std::optional<Decision>& asked) {
  if (asked) return *asked;
  if (one_thread_is_enough(budget)) {
    const std::string cores = count(budget.compute.value, "core");
    return {1, budget.inputs.workload.activation_bytes == 0
                   ? "LibTorch's number before the first plan, which suits small tensors on " + cores +
                         "; large ones gain by a thread for each: say so by Workload::activation_bytes, or calibrate()"
                   : "waking threads on " + cores + " takes longer than they save with tensors of " +
                         size_text(budget.inputs.workload.activation_bytes)};
  }
  Decision result = budget.compute;
  if (division.divided && division.trainer_cores == budget.performance && division.trainer_cores < budget.compute.value)
    result = {division.trainer_cores, "the performance cores alone, as an operator waits for its slowest thread"};
  else if (division.divided && division.trainer_cores < budget.compute.value)
    result = {division.trainer_cores, "what " + count(division.worker_cores, "core") +
                                          " for the loader's workers and " + count(budget.reserved, "core") +
                                          " for the system leave of " + count(budget.cores.value, "core")};
  return within_thread_limit(result, budget.inputs.variables);
}

/// LibTorch sizes this pool once in a process, and it cannot be put back: a model that runs operators beside each other
/// would stay slower for good.
Decision decide_inter_op(const PlanInputs& inputs) {
  if (inputs.inter_op > 0) return {inputs.inter_op, "asked for by the option inter_op"};
  return {inputs.default_inter_op > 0 ? inputs.default_inter_op : inputs.topology.physical_cores,
          "LibTorch's own number, which is left as it is unless the option inter_op asks"};
}

/// Whether OpenMP's idle threads would spin on cores that BLAS's own need. Not with two cores on both of which LibTorch
/// computes by itself, in operators that are not known to be large: OpenMP's other thread is soon needed again, and
/// goes on spinning as it would without this plan.
bool idle_threads_are_in_the_way(const Budget& budget, const ThreadPlan& plan) {
  const PlanInputs& inputs = budget.inputs;
  const bool own_threads = inputs.blas == BlasLibrary::kOpenBlas || inputs.blas == BlasLibrary::kMkl;
  if (!own_threads || plan.blas_on_openmp || plan.blas == 1) return false;
  return inputs.blas != BlasLibrary::kOpenBlas || inputs.variables.openblas_num_threads ||
         inputs.variables.omp_num_threads ||  // which OpenBLAS follows, too
         inputs.topology.physical_cores != 2 || budget.compute.value != 2 || plan.intra_op != 2 ||
         inputs.default_intra_op == 1 || inputs.workload.activation_bytes >= kLargeActivation;
}

Decision decide_blas(const Budget& budget, int intra_op, bool asked) {
  const PlanInputs& inputs = budget.inputs;
  const ThreadVariables& variables = inputs.variables;
  const std::string name = blas_library_name(inputs.blas);
  switch (inputs.blas) {
    case BlasLibrary::kNone:
      return {0, name + " was found, so nothing is set"};
    case BlasLibrary::kOpenBlas:
      if (variables.openblas_num_threads)
        return {*variables.openblas_num_threads, "the environment's OPENBLAS_NUM_THREADS"};
      if (!asked && one_thread_is_enough(budget))
        return {budget.compute.value,
                name + "'s own threads, one for each core, which it uses for products that are worth it"};
      break;
    case BlasLibrary::kMkl:
      if (variables.mkl_num_threads) return {*variables.mkl_num_threads, "the environment's MKL_NUM_THREADS"};
      break;
    case BlasLibrary::kOpenBlasOnOpenMp:
      return {intra_op, name + " follows intra_op"};
  }
  return {intra_op, "as many as intra_op, for " + name};
}

Decision decide_training(const Budget& budget, const Division& division, int intra_op, bool asked) {
  if (!asked && one_thread_is_enough(budget)) return {budget.compute.value, "those that products of matrices take"};
  return {intra_op, division.divided ? "intra_op, on cores apart from the loader's" : "as many as intra_op"};
}

Decision decide_limit(const Budget& budget, int dataloader) {
  if (budget.inputs.workload.dataloader == 0) return {0, "the workload asks for no workers"};
  const int workers = std::max(dataloader, std::clamp(2 * budget.cores.value, kLeastLimit, kMostLimit));
  return budget.within_memory({workers, "the most that kAuto may start, as workers that wait need no core"},
                              budget.loader_worker_bytes(), dataloader);
}

Decision decide_preprocessing(const Budget& budget) {
  const int workers = budget.cores.value - budget.reserved;
  const std::string why =
      workers == 1 ? "one core"
                   : "one worker for each core" + std::string(budget.reserved > 0 ? " but the reserved" : "");
  return budget.within_memory({workers, why}, budget.worker_bytes(), 1);
}

Decision decide_inference(const Budget& budget, const std::optional<Decision>& asked) {
  if (asked) return *asked;
  const CpuTopology& topology = budget.inputs.topology;
  const bool fast_alone = fast_team(budget.performance, topology.physical_cores) < topology.physical_cores;
  std::map<int, int> nodes;
  for (const CpuCore& core : topology.cores)
    if (!fast_alone || core.kind == CoreKind::kPerformance) ++nodes[core.numa_node];
  if (nodes.size() <= 1) return within_thread_limit(budget.compute, budget.inputs.variables);
  const auto largest =
      std::max_element(nodes.begin(), nodes.end(), [](auto& a, auto& b) { return a.second < b.second; });
  Decision result{largest->second, "the " + count(largest->second, "core") + " of NUMA node " +
                                       std::to_string(largest->first) +
                                       ", as threads far from the model's memory wait"};
  if (budget.compute.value < result.value) result = budget.compute;
  return within_thread_limit(result, budget.inputs.variables);
}

/// As taskset takes them: "0-3,8,16-30:2".
std::string list(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    const int step = i + 1 < numbers.size() ? numbers[i + 1] - numbers[i] : 1;
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] - numbers[last] == step) ++last;
    if (step > 1 && last - i < 2) last = i;  // two numbers make no row
    if (!text.empty()) text += ',';
    text += std::to_string(numbers[i]);
    if (last > i) text.append("-").append(std::to_string(numbers[last]));
    if (last > i && step > 1) text.append(":").append(std::to_string(step));
    i = last + 1;
  }
  return text;
}

/// The cores in the order in which they are given out: the system's first, where interrupts go by default, then the
/// trainer's, then the workers' from the end. Efficiency cores stand at the end, and cores that share memory and caches
/// beside each other.
std::vector<CpuCore> cores_in_order(const CpuTopology& topology) {
  std::vector<CpuCore> cores = topology.cores;
  std::stable_sort(cores.begin(), cores.end(), [](const CpuCore& a, const CpuCore& b) {
    return std::tuple(a.kind, a.numa_node, a.last_level_cache) < std::tuple(b.kind, b.numa_node, b.last_level_cache);
  });
  return cores;
}

std::string nodes_of(const std::vector<CpuCore>& cores, size_t begin, size_t end) {
  std::vector<int> nodes;
  for (size_t i = begin; i < end; ++i) nodes.push_back(cores[i].numa_node);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return (nodes.size() == 1 ? "NUMA node " : "NUMA nodes ") + list(nodes);
}

void place(const Budget& budget, const Division& division, ThreadPlan& plan) {
  const auto unbound = [&](const std::string& why) { plan.reasons.push_back("no thread is bound to a CPU: " + why); };
  if (!budget.inputs.pin) return unbound("the option pin was not set");
  if (!budget.inputs.variables.binding.empty()) return unbound(budget.inputs.variables.binding + " binds them");
  if (!division.divided)
    return unbound(division.refusal.empty() ? "there are no workers to keep apart" : division.refusal);
  std::vector<CpuCore> cores = cores_in_order(budget.inputs.topology);
  const bool system_on_last = budget.inputs.topology.count(CoreKind::kEfficiency) > division.worker_cores;
  // An efficiency core serves the system as well, and leaves the trainer all the fast ones.
  const size_t first = budget.reserved > 0 && !system_on_last ? 1 : 0;
  const size_t end = cores.size() - (budget.reserved > 0 && system_on_last ? 1 : 0);
  const size_t trainer_end = first + static_cast<size_t>(division.trainer_cores);
  const size_t workers_begin = end - static_cast<size_t>(division.worker_cores);
  // One CPU a core, so that two of the trainer's threads never share one; a core's other threads stay idle.
  for (size_t i = first; i < trainer_end; ++i) plan.trainer_cpus.push_back(cores[i].cpus.front());
  for (size_t i = workers_begin; i < end; ++i)
    plan.dataloader_cpus.insert(plan.dataloader_cpus.end(), cores[i].cpus.begin(), cores[i].cpus.end());
  std::sort(plan.trainer_cpus.begin(), plan.trainer_cpus.end());
  std::sort(plan.dataloader_cpus.begin(), plan.dataloader_cpus.end());
  plan.reasons.push_back("trainer_cpus = " + list(plan.trainer_cpus) + ": one of each core, on " +
                         nodes_of(cores, first, trainer_end));
  plan.reasons.push_back("dataloader_cpus = " + list(plan.dataloader_cpus) + ": all of each core, on " +
                         nodes_of(cores, workers_begin, end));
}

}  // namespace
}  // namespace threading

std::string ThreadPlan::explain() const {
  std::string text = "torchfeed: threads for training\n";
  for (const std::string& reason : reasons) text += "  " + reason + "\n";
  return text;
}

namespace threading {

ThreadPlan plan_threads(const PlanInputs& inputs) {
  const Budget budget = make_budget(inputs);
  const auto asked = asked_for(inputs);
  const Decision dataloader = decide_dataloader(budget);
  const Division division = divide(budget, dataloader.value, asked);
  const Decision intra_op = decide_intra_op(budget, division, asked);
  ThreadPlan plan;
  const auto decide = [&plan](const char* name, int& field, const Decision& decision) {
    field = decision.value;
    plan.reasons.push_back(std::string(name) + " = " + std::to_string(decision.value) + ": " + decision.why);
  };
  const CpuTopology& topology = inputs.topology;
  plan.physical_cores = topology.physical_cores;
  plan.logical_cores = topology.logical_cores;
  plan.efficiency_cores = topology.count(CoreKind::kEfficiency);
  plan.performance_cores = topology.physical_cores - plan.efficiency_cores;
  plan.reasons.push_back("physical_cores = " + std::to_string(topology.physical_cores) +
                         ", logical_cores = " + std::to_string(topology.logical_cores) +
                         ": inside the affinity mask, from " + topology.origin);
  decide("intra_op", plan.intra_op, intra_op);
  decide("inter_op", plan.inter_op, decide_inter_op(inputs));
  decide("blas", plan.blas, decide_blas(budget, intra_op.value, asked.has_value()));
  plan_blas_team(inputs, plan);
  plan.short_spinning = idle_threads_are_in_the_way(budget, plan);
  plan_blas_kernels(inputs, plan);
  decide("training", plan.training, decide_training(budget, division, intra_op.value, asked.has_value()));
  decide("dataloader", plan.dataloader, dataloader);
  decide("dataloader_limit", plan.dataloader_limit, decide_limit(budget, dataloader.value));
  decide("preprocessing", plan.preprocessing, decide_preprocessing(budget));
  decide("inference", plan.inference, decide_inference(budget, asked));
  decide("reserved", plan.reserved,
         {budget.reserved, budget.reserved == 0 ? "too few cores to leave one to the system"
                           : division.divided   ? "left to the system by trainer and workers"
                                                : "left to the system by workers and preprocessing"});
  plan_primitive_cache(inputs, plan);
  plan_tensor_memory(inputs, plan);
  plan_onednn_rnn(inputs, plan);
  place(budget, division, plan);
  plan.reasons.insert(plan.reasons.end(), inputs.variables.notes.begin(), inputs.variables.notes.end());
  if (inputs.intra_op == 0 && intra_op.value > budget.cores.value)
    plan.reasons.push_back("intra_op is above the " + count(budget.cores.value, "core") +
                           " to run on, as the environment asks");
  return plan;
}

DataLoaderConfig plan_data_loader(const PlanInputs& inputs, bool cuda) {
  constexpr std::uint64_t kSmallBatch = 256 * 1024;
  const ThreadPlan plan = plan_threads(inputs);
  const std::uint64_t batch = product(inputs.workload.batch_size, inputs.workload.sample_bytes);
  const bool workers = plan.dataloader > 0;
  DataLoaderConfig config;
  const auto say = [&config](const std::string& name, int value, const std::string& why) {
    config.reasons.push_back(name + " = " + std::to_string(value) + ": " + why);
  };
  config.num_workers = plan.dataloader;
  for (const std::string& reason : plan.reasons)
    if (const std::string name = "dataloader = "; reason.compare(0, name.size(), name) == 0)
      config.reasons.push_back("num_workers = " + reason.substr(name.size()));
  std::string why = "a batch under way and one ready, for each worker";
  if (!workers) {
    why = "not used without workers";
  } else if (inputs.memory &&
             product(kPrefetch * static_cast<std::uint64_t>(plan.dataloader), batch) > inputs.memory->bytes / 4) {
    config.prefetch_factor = 1;
    why = "more batches of " + size_text(batch) + " would take a quarter of the free memory";
  } else if (batch > 0 && batch <= kSmallBatch) {
    config.prefetch_factor = 4;
    why = "small batches ahead cost little and make up for slow ones";
  }
  say("prefetch_factor", config.prefetch_factor, why);
  config.persistent_workers = workers;
  say("persistent_workers", workers, workers ? "the next epoch begins without starting them" : "there are no workers");
  config.pin_memory = cuda && workers;
  say("pin_memory", config.pin_memory,
      !cuda     ? "there is no GPU to copy to"
      : workers ? "for copies to the GPU"
                : "only workers' batches are pinned");
  return config;
}

}  // namespace threading
}  // namespace torchfeed
