#include <torchfeed/plugin/threading/library_plan.h>

#include <cstdint>
#include <string>

namespace torchfeed::threading {
namespace {

/// With less free memory than this nothing is kept beyond what libraries keep by themselves.
constexpr std::uint64_t kEnoughMemory = std::uint64_t{2} << 30;

/// Primitives that oneDNN should keep: it keeps 1024 by itself, which a model with batches of many shapes goes through,
/// as each layer takes three of them (forward, data and weights backward) for each shape. One takes up to about 100
/// KiB.
constexpr int kPrimitiveCache = 4096;

/// Of freed tensors, where nobody tells how much memory there is.
constexpr std::uint64_t kUsualTensorMemory = std::uint64_t{1} << 30;
/// And at most, however much there is: what tensors of ever other sizes would pile up, and there may be one such
/// process for each of a machine's GPUs.
constexpr std::uint64_t kMostTensorMemory = std::uint64_t{4} << 30;

bool memory_is_short(const PlanInputs& inputs) { return inputs.memory && inputs.memory->bytes < kEnoughMemory; }

}  // namespace

bool openmp_team_suits(const PlanInputs& inputs, int threads) {
  const int blas = inputs.variables.openblas_num_threads.value_or(threads);
  return inputs.blas == BlasLibrary::kOpenBlas && inputs.blas_team && inputs.blas_on_openmp && blas > 1 &&
         blas <= threads;
}

void plan_blas_team(const PlanInputs& inputs, ThreadPlan& plan) {
  plan.blas_on_openmp = openmp_team_suits(inputs, plan.intra_op);
  if (plan.blas_on_openmp)
    plan.reasons.emplace_back(
        "blas_on_openmp = 1: OpenBLAS's products run on OpenMP's threads, as two teams keep each other from the cores "
        "on which they wait");
  else if (inputs.blas_team && !inputs.blas_on_openmp)
    plan.reasons.emplace_back("blas_on_openmp = 0: the option blas_on_openmp says so");
}

void plan_blas_kernels(const PlanInputs& inputs, ThreadPlan& plan) {
  const std::string better = better_blas_kernels(inputs.blas_kernels, inputs.features);
  if (better.empty()) return;
  const std::string current = "OpenBLAS runs its kernels for " + inputs.blas_kernels + ", without AVX";
  if (!inputs.variables.blas_kernels.empty()) {
    plan.reasons.push_back(current + ", as the environment's OPENBLAS_CORETYPE=" + inputs.variables.blas_kernels +
                           " tells");
    return;
  }
  plan.blas_kernels = better;
  plan.reasons.push_back("blas_kernels = " + better + ": " + current + ", as it does not know this processor");
}

void plan_primitive_cache(const PlanInputs& inputs, ThreadPlan& plan) {
  const auto decide = [&plan](int primitives, const std::string& why) {
    plan.primitive_cache = primitives;
    plan.reasons.push_back("primitive_cache = " + std::to_string(primitives) + ": " + why);
  };
  if (inputs.primitive_cache > 0) return decide(inputs.primitive_cache, "asked for by the option primitive_cache");
  if (!inputs.variables.primitive_cache.empty())
    return decide(0, "oneDNN keeps as many as the environment's " + inputs.variables.primitive_cache + " tells");
  if (memory_is_short(inputs)) return decide(0, "oneDNN keeps as many primitives as by itself, as memory is short");
  decide(kPrimitiveCache, "oneDNN keeps the primitives of batches of more shapes than by itself");
}

void plan_tensor_memory(const PlanInputs& inputs, ThreadPlan& plan) {
  const auto decide = [&plan](std::uint64_t bytes, const std::string& why) {
    plan.tensor_memory = bytes;
    plan.reasons.push_back("tensor_memory = " + std::to_string(bytes) + ": " + why);
  };
  if (!inputs.tensor_memory) return decide(0, "the option tensor_memory says so");
  if (!inputs.variables.malloc_setting.empty())
    return decide(0, "malloc decides, as the environment's " + inputs.variables.malloc_setting + " tells");
  if (memory_is_short(inputs)) return decide(0, "freed tensors' memory goes back at once, as memory is short");
  const std::string why = "bytes of freed tensors that may be kept for the next ones, as new memory comes page by page";
  if (!inputs.memory) return decide(kUsualTensorMemory, why);
  const bool much = inputs.memory->bytes / 4 > kMostTensorMemory;
  decide(much ? kMostTensorMemory : inputs.memory->bytes / 4,
         why + (much ? "; no more, though " : "; a quarter of what ") + inputs.memory->source +
             (much ? " leaves more than four times that" : " leaves"));
}

void plan_onednn_rnn(const PlanInputs& inputs, ThreadPlan& plan) {
  plan.onednn_rnn = inputs.onednn_rnn;
  plan.reasons.emplace_back(inputs.onednn_rnn ? "onednn_rnn = 1: recurrent layers of small states run as one oneDNN "
                                                "primitive, not as some twenty operators for each time step"
                                              : "onednn_rnn = 0: the option onednn_rnn says so");
}

}  // namespace torchfeed::threading
