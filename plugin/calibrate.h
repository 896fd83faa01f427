#pragma once

#include <torchfeed/plugin/threading_optimizer.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace torchfeed {

struct CalibrationOptions {
  /// Time for measuring, above 0. No step begins after it; one that is under way is not cut off.
  std::chrono::milliseconds time{5000};
  /// What a change has to gain at least, as a share of the default's time, 0 to 1.
  double least_gain = 0.02;
  /// What optimize_system_for_training() would be called with: numbers that these ask for are not tried otherwise, and
  /// what else they ask for is set at the end.
  ThreadingOptions threading{};
  Workload workload{};
  /// Prints explain() to stderr.
  bool verbose = true;
  /// The clock, in seconds. Empty: the steady one. Tests have one of their own.
  std::function<double()> now = nullptr;
};

/// A way to share out threads, and what a step took under it.
struct MeasuredThreads {
  int intra_op = 1;
  /// 0: there is no BLAS library that sizes itself.
  int blas = 0;
  /// Whether OpenBLAS's products run on OpenMP's threads.
  bool blas_on_openmp = false;
  /// The kernels that OpenBLAS runs; empty: as before.
  std::string blas_kernels;
  /// Whether OpenMP's idle threads sleep at once, as optimize_system_for_training() has it.
  bool short_spinning = false;
  /// Bytes of freed tensors' memory that are kept; 0: none.
  std::uint64_t tensor_memory = 0;
  /// Whether recurrent layers run in oneDNN.
  bool onednn_rnn = false;
  /// The median step in seconds.
  double step_seconds = 0;
  /// The default's time over this one's, above 1 where this is faster: median and quartiles over the rounds.
  double gain = 1;
  double gain_low = 1;
  double gain_high = 1;
};

/// What calibrate() measured and decided.
struct Calibration {
  /// What was in force before. Its gain is that over itself: what chance does.
  MeasuredThreads before;
  std::vector<MeasuredThreads> candidates;
  int rounds = 0;
  double seconds = 0;
  /// The one of `candidates` that is in force now; -1: nothing was better beyond noise, and all is as before.
  int chosen = -1;
  /// What is in force now, with a sentence for each thing that was measured.
  ThreadPlan plan;

  /// The sentences, a line each, under a heading.
  std::string explain() const;
};

/// Finds the number of threads by trying: runs `step` under the threads that are in force and under candidates (the
/// plan's, one for each core, one, half, those of one NUMA node, with and without OpenMP's spinning, BLAS's
/// products on its threads, the plan's kernels, freed tensors' memory and recurrent layers), in turn, and keeps a
/// change only where it is beyond noise: it gains more than `least_gain`, more in the median of the rounds than what is
/// in force gains over itself, and is faster in so many rounds that luck would not give it once in 20. The change stays
/// for the life of the process. What the user's variables fix (OMP_NUM_THREADS) is not tried otherwise.
///
/// Call it instead of optimize_system_for_training(), so that LibTorch's own default is what it compares with, in the
/// thread that trains, once the model is there. `step` is one step of training as it will be, loader left out. It runs
/// thousands of times if it is short; one that takes more than 1/32 of `time` is too long for a candidate like it to be
/// decided on, and then nothing is changed. It changes what it changes: give it a copy of the model where that matters.
/// Where the plan in force binds threads, they stay bound, and the loader's CPUs remain its own. No other thread may
/// compute meanwhile: OpenBLAS's kernels are exchanged many times where the plan has others for it. Call it while no
/// AppliedPlan is there that is to be restored, as what is chosen stays.
/// Errors: c10::Error for options outside their range; what `step` throws, after everything is as before.
Calibration calibrate(const std::function<void()>& step, const CalibrationOptions& options = {});

}  // namespace torchfeed
