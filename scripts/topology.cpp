/// Prints the machine and how its cores are planned to be used, with a reason for each number. See `topology --help`.

#include <ATen/Parallel.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/free_memory.h>
#include <torchfeed/plugin/threading/planner.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "common/command_line.h"
#include "common/program.h"

namespace torchfeed {
namespace {

using nlohmann::ordered_json;
using program::InputError;
using threading::PlanInputs;

constexpr int kMaxCpus = 65536;

struct Options {
  std::optional<std::string> synthetic;
  std::optional<std::string> xml;
  std::optional<std::string> cpus;
  std::string cgroup_root;
  std::optional<std::int64_t> memory;
  std::int64_t dataset_size = 0;
  std::int64_t batch_size = 0;
  std::int64_t sample_bytes = 0;
  std::int64_t activation_bytes = 0;
  int workers = -1;
  bool pin = false;
  bool json = false;
};

void add_options(CLI::App& app, Options& options) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto* synthetic = app.add_option("--synthetic", options.synthetic,
                                   "Another machine, in hwloc's synthetic notation: \"pack:2 core:8 pu:2\"");
  app.add_option("--xml", options.xml, "Another machine, in a file that `lstopo FILE.xml` wrote there")
      ->excludes(synthetic);
  app.add_option("--cpus", options.cpus, "Affinity mask inside that machine, as in \"0-7,16\" (default: all CPUs)");
  app.add_option("--cgroup-root", options.cgroup_root,
                 "Read CPU quota and memory below this folder: a tree with proc/self/{mountinfo,cgroup} and what is "
                 "mounted, or a copy of /sys/fs/cgroup");
  const CLI::Range not_negative(std::int64_t{0}, std::numeric_limits<std::int64_t>::max());
  app.add_option("--memory", options.memory, "Free memory in bytes, instead of the machine's")->check(not_negative);
  app.add_option("--dataset-size", options.dataset_size, "Samples that the loader reads; 0: unknown")
      ->check(not_negative)
      ->capture_default_str();
  app.add_option("--batch-size", options.batch_size, "Samples in a batch; 0: unknown")
      ->check(not_negative)
      ->capture_default_str();
  app.add_option("--sample-bytes", options.sample_bytes, "Bytes of a sample; 0: unknown")
      ->check(not_negative)
      ->capture_default_str();
  app.add_option("--activation-bytes", options.activation_bytes,
                 "Bytes of the tensors that most of the model's operators write; 0: unknown")
      ->check(not_negative)
      ->capture_default_str();
  app.add_option("--workers", options.workers, "Loader workers beside training; -1: as many as the plan has")
      ->check(CLI::Range(-1, 1024))
      ->capture_default_str();
  app.add_flag("--pin", options.pin, "Plan which CPUs the trainer's threads and the loader's workers are bound to");
  app.add_flag("--json", options.json, "Print JSON");
}

[[noreturn]] void refuse_cpus(const std::string& text) {
  throw InputError("--cpus: expected CPU numbers below " + std::to_string(kMaxCpus) + " as in 0-7,16, got '" + text +
                   "'");
}

/// "0-7,16" as numbers.
std::vector<int> parse_cpus(const std::string& text) {
  std::vector<int> cpus;
  if (text.empty()) refuse_cpus(text);
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&] {
    int value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || value < 0 || value >= kMaxCpus) refuse_cpus(text);
    at = next;
    return value;
  };
  while (at != end) {
    const int first = number();
    int last = first;
    if (at != end && *at == '-') {
      ++at;
      last = number();
    }
    if (last < first) refuse_cpus(text);
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at == end) break;
    if (*at++ != ',' || at == end) refuse_cpus(text);
  }
  return cpus;
}

/// The described machine; what is not described of it is unknown. Without one, this machine.
PlanInputs read_inputs(const Options& options) {
  PlanInputs inputs;
  const bool described = options.synthetic || options.xml;
  const std::vector<int> mask = options.cpus ? parse_cpus(*options.cpus) : std::vector<int>{};
  if (!described && !mask.empty()) throw InputError("--cpus: goes with --synthetic or --xml; here, use taskset");
  if (!options.cgroup_root.empty() && !std::filesystem::is_directory(options.cgroup_root)) {
    throw InputError("--cgroup-root: expected a folder, got '" + options.cgroup_root + "'");
  }
  inputs.topology = options.synthetic ? threading::topology_from_synthetic(*options.synthetic, mask)
                    : options.xml     ? threading::topology_from_xml(*options.xml, mask)
                                      : threading::load_topology(threading::MachineVariables::kReplaceTheMachine);
  if (!described || !options.cgroup_root.empty()) {
    const std::filesystem::path root = options.cgroup_root.empty() ? "/" : options.cgroup_root;
    inputs.quota = threading::read_cpu_quota(root);
    inputs.memory = threading::read_free_memory(root);
  }
  if (options.memory) inputs.memory = threading::MemoryRoom{static_cast<std::uint64_t>(*options.memory), "--memory"};
  inputs.variables = threading::read_thread_variables();
  inputs.blas = threading::blas_library();
  inputs.blas_team = threading::can_share_openmp_team();
  if (!described) {
    inputs.blas_kernels = threading::blas_kernels();
    inputs.features = threading::cpu_features();
  }
  inputs.workload.dataset_size = static_cast<std::uint64_t>(options.dataset_size);
  inputs.workload.batch_size = static_cast<std::uint64_t>(options.batch_size);
  inputs.workload.sample_bytes = static_cast<std::uint64_t>(options.sample_bytes);
  inputs.workload.dataloader = options.workers;
  inputs.pin = options.pin;
  inputs.workload.activation_bytes = static_cast<std::uint64_t>(options.activation_bytes);
  if (!described) inputs.default_inter_op = static_cast<int>(at::get_num_interop_threads());
  if (!described) inputs.default_intra_op = at::get_num_threads();
  return inputs;
}

/// {name: number} with null for what is unknown or unlimited.
template <typename Limit, typename Number>
ordered_json limit_json(const std::optional<Limit>& limit, const char* name, Number Limit::*number) {
  if (!limit) return nullptr;
  return {{name, (*limit).*number}, {"source", limit->source}};
}

ordered_json to_json(const PlanInputs& inputs, const ThreadPlan& plan) {
  const threading::CpuTopology& topology = inputs.topology;
  ordered_json nodes = ordered_json::array();
  for (const threading::NumaNode& node : topology.numa_nodes) {
    const auto here = [&](const threading::CpuCore& core) { return core.numa_node == node.number; };
    nodes.push_back({{"number", node.number},
                     {"cores", std::count_if(topology.cores.begin(), topology.cores.end(), here)},
                     {"memory_bytes", node.memory_bytes}});
  }
  return {{"origin", topology.origin},
          {"packages", topology.packages},
          {"numa_nodes", nodes},
          {"physical_cores", plan.physical_cores},
          {"logical_cores", plan.logical_cores},
          {"performance_cores", plan.performance_cores},
          {"efficiency_cores", plan.efficiency_cores},
          {"l2_bytes", topology.l2_bytes},
          {"last_level_cache_bytes", topology.last_level_bytes},
          {"quota", limit_json(inputs.quota, "cpus", &threading::CpuQuota::cpus)},
          {"free_memory", limit_json(inputs.memory, "bytes", &threading::MemoryRoom::bytes)},
          {"intra_op", plan.intra_op},
          {"inter_op", plan.inter_op},
          {"blas", plan.blas},
          {"blas_on_openmp", plan.blas_on_openmp},
          {"blas_kernels", plan.blas_kernels},
          {"training", plan.training},
          {"dataloader", plan.dataloader},
          {"dataloader_limit", plan.dataloader_limit},
          {"preprocessing", plan.preprocessing},
          {"inference", plan.inference},
          {"reserved", plan.reserved},
          {"primitive_cache", plan.primitive_cache},
          {"tensor_memory", plan.tensor_memory},
          {"onednn_rnn", plan.onednn_rnn},
          {"short_spinning", plan.short_spinning},
          {"trainer_cpus", plan.trainer_cpus},
          {"dataloader_cpus", plan.dataloader_cpus},
          {"reasons", plan.reasons}};
}

std::string count(std::int64_t number, const char* one) {
  return std::to_string(number) + " " + one + (number == 1 ? "" : "s");
}

std::string size_text(std::uint64_t bytes) {
  constexpr double kKiB = 1024, kMiB = kKiB * 1024, kGiB = kMiB * 1024;
  const auto size = static_cast<double>(bytes);
  char text[32];
  if (size >= kGiB) {
    std::snprintf(text, sizeof(text), "%.4g GiB", size / kGiB);
  } else if (size >= kMiB) {
    std::snprintf(text, sizeof(text), "%.4g MiB", size / kMiB);
  } else {
    std::snprintf(text, sizeof(text), "%.4g KiB", size / kKiB);
  }
  return text;
}

void print_machine(const PlanInputs& inputs, const ThreadPlan& plan) {
  const threading::CpuTopology& topology = inputs.topology;
  std::printf("machine, from %s\n", topology.origin.c_str());
  std::printf("  %-12s %d with %s in %s\n", "cores", plan.physical_cores,
              count(plan.logical_cores, "hardware thread").c_str(), count(topology.packages, "package").c_str());
  if (plan.efficiency_cores > 0) {
    std::printf("  %-12s %d performance, %d efficiency\n", "kinds", plan.performance_cores, plan.efficiency_cores);
  }
  for (const threading::NumaNode& node : topology.numa_nodes) {
    const auto here = [&](const threading::CpuCore& core) { return core.numa_node == node.number; };
    std::printf("  NUMA node %-2d %s%s\n", node.number,
                count(std::count_if(topology.cores.begin(), topology.cores.end(), here), "core").c_str(),
                node.memory_bytes == 0 ? "" : (", " + size_text(node.memory_bytes) + " of memory").c_str());
  }
  if (topology.last_level_bytes > 0) {
    std::printf("  %-12s %s level 2, %s last level\n", "caches", size_text(topology.l2_bytes).c_str(),
                size_text(topology.last_level_bytes).c_str());
  }
  std::printf(
      "  %-12s %s\n", "CPU quota",
      inputs.quota ? (std::to_string(inputs.quota->cpus) + " CPUs, from " + inputs.quota->source).c_str() : "none");
  std::printf(
      "  %-12s %s\n", "free memory",
      inputs.memory ? (size_text(inputs.memory->bytes) + ", from " + inputs.memory->source).c_str() : "unknown");
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Prints this machine, or one that is described, and how torchfeed plans to use its cores, with a reason for each "
      "number.\nThe user's OMP_, MKL_ and KMP_ variables count.");
  add_options(app, options);
  if (!program::parse(app, argc, argv)) return 0;
  const PlanInputs inputs = read_inputs(options);
  const ThreadPlan plan = threading::plan_threads(inputs);
  if (options.json) {
    std::printf("%s\n", to_json(inputs, plan).dump(2).c_str());
  } else {
    print_machine(inputs, plan);
    std::printf("plan\n");
    for (const std::string& reason : plan.reasons) std::printf("  %s\n", reason.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace torchfeed

int main(int argc, char** argv) {
  return torchfeed::program::run("topology", [&] { return torchfeed::run(argc, argv); });
}
