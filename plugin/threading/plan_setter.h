#pragma once

#include <torchfeed/plugin/threading/process_threads.h>
#include <torchfeed/plugin/threading/thread_plan.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::threading {

/// Puts a plan into force, one setting at a time, each read back: numbers in the plan become those that hold, what
/// could not be set becomes a sentence in its reasons, and what has to be done to put a setting back goes to `undo`, to
/// be run from the end. Undoing throws std::runtime_error with a sentence where the system refuses. All by the thread
/// that trains. The plan and `undo` outlive this.
class PlanSetter {
 public:
  using Undo = std::vector<std::function<void()>>;
  PlanSetter(ThreadPlan& plan, Undo& undo);

  /// Runs all of `undo` from the end, and tells on stderr what the system refuses.
  static void put_back(Undo undo) noexcept;

  /// ATen's threads inside an operator, and OpenMP's, which oneDNN runs on.
  void set_intra_op();
  /// Cannot be undone: LibTorch sizes this pool once, and the plan says so.
  void set_inter_op();
  void set_blas();
  /// Onto OpenMP's threads, or back to its own, as the plan says.
  void set_blas_team();
  /// To the plan's, if it names some.
  void set_blas_kernels();
  void shorten_spinning();
  void set_primitive_cache();
  void keep_tensor_memory();
  /// Binds the process's threads to the plan's trainer_cpus, if it has some.
  void bind_threads();
  /// `mode` by oneDNN's numbers, and its name.
  void set_fp_math(int mode, const std::string& name);
  void set_flush_denormals(bool flush);
  void set_niceness(int nice);
  void set_real_time(const Scheduling& wanted);

 private:
  void say(std::string sentence) { plan_.reasons.push_back(std::move(sentence)); }

  ThreadPlan& plan_;
  Undo& undo_;
  std::optional<int> blas_before_;  // ATen may size MKL, too
};

}  // namespace torchfeed::threading
