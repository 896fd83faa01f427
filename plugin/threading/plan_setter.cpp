#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <sched.h>
#include <torchfeed/plugin/threading/attention_kernels.h>
#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>
#include <torchfeed/plugin/threading/denormals.h>
#include <torchfeed/plugin/threading/onednn_settings.h>
#include <torchfeed/plugin/threading/openmp_team.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading/plan_setter.h>
#include <torchfeed/plugin/threading/tensor_memory.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace torchfeed::threading {
namespace {

std::string stays(const char* name, int is, int wanted, const std::string& why) {
  return std::string(name) + " stays " + std::to_string(is) + ", not " + std::to_string(wanted) + ": " + why;
}

std::string threads(int count) { return std::to_string(count) + (count == 1 ? " thread" : " threads"); }

std::string refused(const std::string& what, int error) { return what + ": " + std::generic_category().message(error); }

std::string asked_for(const ThreadsSet& result) {
  // Without /proc nobody tells which threads there are.
  if (result.set == 0) return "asked for, but no thread was found to set it for";
  return "asked for and read back in " + threads(result.set) +
         (result.others.empty() ? "" : "; " + threads(static_cast<int>(result.others.size())) + " had another already");
}

/// OpenMP's own count for this thread, where it has not followed ATen's; LibTorch may be built on other pools.
void set_openmp(int wanted, PlanSetter::Undo& undo) {
  const auto get = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (!get || !set || get() == wanted) return;
  undo.emplace_back([set, before = get()] { set(before); });
  set(wanted);
}

}  // namespace

PlanSetter::PlanSetter(ThreadPlan& plan, Undo& undo)
    : plan_(plan), undo_(undo), blas_before_(usual_blas_num_threads()) {}

void PlanSetter::put_back(Undo undo) noexcept {
  for (; !undo.empty(); undo.pop_back()) {
    try {
      undo.back()();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "torchfeed: not put back: %s\n", error.what());
    }
  }
}

void PlanSetter::set_intra_op() {
  const int wanted = plan_.intra_op;
  const int before = at::get_num_threads();
  undo_.emplace_back([before] { at::set_num_threads(before); });
  std::string problem = "ATen kept its number";
  try {
    at::set_num_threads(wanted);
  } catch (const c10::Error& error) {
    problem = error.what_without_backtrace();
  }
  plan_.intra_op = at::get_num_threads();
  if (plan_.intra_op != wanted) say(stays("intra_op", plan_.intra_op, wanted, problem));
  set_openmp(plan_.intra_op, undo_);
}

void PlanSetter::set_inter_op() {
  const int wanted = plan_.inter_op;
  const auto before = static_cast<int>(at::get_num_interop_threads());
  if (before == wanted) return;
  try {
    at::set_num_interop_threads(wanted);
  } catch (const c10::Error&) {
    // Read back below: LibTorch refuses once the pool runs.
  }
  plan_.inter_op = static_cast<int>(at::get_num_interop_threads());
  const std::string once = "LibTorch sizes this pool once, before its first use";
  say(plan_.inter_op == wanted ? "inter_op cannot be put back to " + std::to_string(before) + ": " + once
                               : stays("inter_op", plan_.inter_op, wanted, once));
}

void PlanSetter::set_blas() {
  const int wanted = plan_.blas;
  // OpenMP's count is another's to put back.
  if (blas_before_ && blas_library() != BlasLibrary::kOpenBlasOnOpenMp) {
    undo_.emplace_back([count = *blas_before_] {
      if (!set_blas_num_threads(count)) throw std::runtime_error("blas to " + threads(count));
    });
  }
  if (wanted == 0) return;
  set_blas_num_threads(wanted);
  plan_.blas = usual_blas_num_threads().value_or(0);
  if (plan_.blas != wanted)
    say(stays("blas", plan_.blas, wanted, blas_library_name(blas_library()) + std::string(" kept its number")));
}

void PlanSetter::set_blas_team() {
  const bool before = openmp_team_is_shared();
  // Anew also where it is so, as the number of threads may have become too large for it.
  const bool possible = !plan_.blas_on_openmp || can_share_openmp_team();
  const bool wanted = plan_.blas_on_openmp && possible;
  const bool done = share_openmp_team(wanted);
  plan_.blas_on_openmp = openmp_team_is_shared();
  if (!possible || !done)
    say("products of matrices stay on BLAS's own threads: " +
        std::string(possible ? "the system starts no more threads"
                             : "it lets nobody else run them here, or has too many threads for that"));
  if (plan_.blas_on_openmp != before) {
    undo_.emplace_back([before] {
      if (!share_openmp_team(before)) throw std::runtime_error("OpenBLAS's products to OpenMP's threads");
    });
  }
  if (plan_.blas_on_openmp) give_attention_one_blas_thread();
}

void PlanSetter::set_blas_kernels() {
  const std::string wanted = plan_.blas_kernels;
  const std::string before = blas_kernels();
  if (wanted.empty() || wanted == before) return;
  if (threading::set_blas_kernels(wanted)) {
    undo_.emplace_back([before] {
      if (!threading::set_blas_kernels(before)) throw std::runtime_error("BLAS's kernels to those for " + before);
    });
    return;
  }
  plan_.blas_kernels.clear();
  say("blas_kernels stay as they are, not " + wanted + ": this BLAS library did not take them");
}

void PlanSetter::shorten_spinning() {
  if (!plan_.short_spinning) return;
  const int parked = parked_openmp_threads();
  OpenMpSpinning spinning;
  try {
    spinning = shorten_openmp_spinning(plan_.intra_op);
  } catch (const std::system_error& error) {
    spinning = {false, parked_openmp_threads(), "a thread cannot be started: " + error.code().message()};
  }
  if (spinning.parked_threads > parked) undo_.emplace_back([parked] { restore_openmp_spinning(parked); });
  plan_.short_spinning = spinning.shortened;
  say(std::string("idle OpenMP threads ") +
      (spinning.shortened ? "sleep at once instead of spinning: " : "are left as they are: ") + spinning.reason);
}

void PlanSetter::set_primitive_cache() {
  const int wanted = plan_.primitive_cache;
  const auto before = onednn_primitive_cache();
  if (wanted == 0 || before == wanted) return;
  if (before && set_onednn_primitive_cache(wanted)) {
    undo_.emplace_back([count = *before] {
      if (!set_onednn_primitive_cache(count))
        throw std::runtime_error("oneDNN's primitive cache to " + std::to_string(count));
    });
    return;
  }
  plan_.primitive_cache = onednn_primitive_cache().value_or(0);
  say(stays("primitive_cache", plan_.primitive_cache, wanted,
            before ? "oneDNN kept its number" : "LibTorch's oneDNN cannot be reached from outside"));
}

void PlanSetter::keep_tensor_memory() {
  const std::uint64_t wanted = plan_.tensor_memory;
  const std::uint64_t before = tensor_memory().limit;
  if (wanted == before) return;
  const std::string problem = threading::keep_tensor_memory(wanted);
  plan_.tensor_memory = tensor_memory().limit;
  if (plan_.tensor_memory != wanted) return say("freed tensors' memory is not kept: " + problem);
  undo_.emplace_back([before] {
    if (const std::string why = threading::keep_tensor_memory(before); !why.empty())
      throw std::runtime_error("tensor_memory to " + std::to_string(before) + ": " + why);
  });
}

void PlanSetter::bind_threads() {
  if (plan_.trainer_cpus.empty()) return;
  std::sort(plan_.trainer_cpus.begin(), plan_.trainer_cpus.end());
  plan_.trainer_cpus.erase(std::unique(plan_.trainer_cpus.begin(), plan_.trainer_cpus.end()), plan_.trainer_cpus.end());
  if (const std::vector<int> all = available_cpus();
      !std::all_of(plan_.dataloader_cpus.begin(), plan_.dataloader_cpus.end(),
                   [&all](int cpu) { return std::find(all.begin(), all.end(), cpu) != all.end(); })) {
    say("the loader's workers are not bound: dataloader_cpus are not all this process's");
    plan_.dataloader_cpus.clear();
  }
  auto pinned = std::make_shared<PinnedProcess>(plan_.trainer_cpus);
  if (thread_cpus() != plan_.trainer_cpus) {
    say("the trainer's threads are not bound: the system did not grant these CPUs");
    plan_.trainer_cpus.clear();
    plan_.dataloader_cpus.clear();
    return;
  }
  say("the masks of " + threads(pinned->bound()) + " were read back as trainer_cpus; later ones inherit it" +
      (pinned->refused() > 0 ? ", and " + threads(pinned->refused()) + " kept another" : ""));
  undo_.emplace_back([pinned] {
    if (const int refused = pinned->restore(); refused > 0)
      throw std::runtime_error("the masks of " + threads(refused) + ": the system did not grant the CPUs of before");
  });
}

void PlanSetter::set_fp_math(int mode, const std::string& name) {
  const auto before = onednn_fpmath_mode();
  if (before && set_onednn_fpmath_mode(mode)) {
    undo_.emplace_back([before = *before] {
      if (!set_onednn_fpmath_mode(before)) throw std::runtime_error("oneDNN's fpmath mode");
    });
    return say("fp_math = " + name + ": asked for; oneDNN may round float32 so, which changes results");
  }
  say("fp_math stays as it is, not " + name + ": " +
      (before ? "this oneDNN does not know it" : "LibTorch's oneDNN cannot be reached from outside"));
}

void PlanSetter::set_flush_denormals(bool flush) {
  const bool before = flushes_denormals();
  undo_.emplace_back([before, count = plan_.intra_op] { threading::set_flush_denormals(before, count); });
  const DenormalThreads result = threading::set_flush_denormals(flush, plan_.intra_op);
  say("flush_denormals = " + std::to_string(flush) + ": asked for, and seen in " + std::to_string(result.set) + " of " +
      threads(result.threads) + " that operators run on" +
      (blas_library() == BlasLibrary::kOpenBlas && !openmp_team_is_shared() ? "; OpenBLAS's own keep theirs" : ""));
}

void PlanSetter::set_niceness(int nice) {
  const int before = niceness();
  const ThreadsSet result = threading::set_niceness(nice);
  if (result.set > 0) {
    undo_.emplace_back([before, others = result.others] {
      if (const ThreadsSet back = threading::set_niceness(before, others); back.error != 0)
        throw std::runtime_error(refused("niceness to " + std::to_string(before), back.error));
    });
  }
  say("nice = " + std::to_string(niceness()) + ": " +
      (result.error == 0 ? asked_for(result)
                         : refused(std::to_string(nice) + " was asked for, but refused", result.error)));
}

void PlanSetter::set_real_time(const Scheduling& wanted) {
  // Later threads are scheduled as usual: OpenMP's have to be there.
  run_in_openmp_team(plan_.intra_op, [] {});
  const Scheduling before = scheduling();
  const ThreadsSet result = threading::set_scheduling(wanted);
  if (result.set > 0) {
    undo_.emplace_back([before, others = result.others] {
      if (const ThreadsSet back = threading::set_scheduling(before, others); back.error != 0)
        throw std::runtime_error(refused("scheduling", back.error));
    });
  }
  const std::string name = std::string(wanted.policy == SCHED_FIFO ? "SCHED_FIFO" : "SCHED_RR") + ", priority " +
                           std::to_string(wanted.priority);
  say("real_time: " + (result.error == 0 ? name + ", " + asked_for(result)
                                         : refused(name + " was asked for, but refused", result.error)));
}

}  // namespace torchfeed::threading
