#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torchfeed/plugin/calibrate.h>
#include <torchfeed/plugin/rnn/operators.h>
#include <torchfeed/plugin/rnn/rnn_setting.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/calibration.h>
#include <torchfeed/plugin/threading/openmp_wait.h>
#include <torchfeed/plugin/threading/plan_setter.h>
#include <torchfeed/plugin/threading/tensor_memory.h>
#include <torchfeed/plugin/threading/thread_variables.h>
#include <torchfeed/plugin/threading_optimizer.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

namespace torchfeed {
namespace {

using Clock = std::function<double()>;
using threading::CalibrationRounds;
using threading::PlanSetter;

/// One measurement takes this long, or one step.
constexpr double kMeasurementSeconds = 0.02;
constexpr int kMostSteps = 200;

/// Before it steps run unmeasured for this long, that bring the threads up (20 to 35 ms on a machine with other work)
/// and the caches back; longer, where there is
/// time for that, after BLAS had another number of threads, as those of before spin on for a while.
constexpr double kWarmingSeconds = 0.035;
constexpr double kWarmingSecondsOfBlas = 0.1;
constexpr int kMostWarmingSteps = 100'000;

/// TorchScript compiles a model anew in its first runs.
constexpr int kLeastFirstSteps = 3;
constexpr int kMostFirstSteps = 10;

/// A step as long as this needs no other before it: what starting threads and filling caches takes does not show. But
/// where freed memory is kept, one fills that, as it was given back after the last measurement.
constexpr double kLongStepSeconds = 0.05;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string text_of(const char* format, double number) {
  char text[64];
  std::snprintf(text, sizeof(text), format, number);
  return text;
}

bool same(const MeasuredThreads& a, const MeasuredThreads& b) {
  return a.intra_op == b.intra_op && a.blas == b.blas && a.short_spinning == b.short_spinning &&
         a.blas_on_openmp == b.blas_on_openmp && a.blas_kernels == b.blas_kernels &&
         a.tensor_memory == b.tensor_memory && a.onednn_rnn == b.onednn_rnn;
}

MeasuredThreads threads_in_force() {
  MeasuredThreads threads;
  threads.intra_op = at::get_num_threads();
  threads.blas = threading::blas_num_threads().value_or(0);
  threads.blas_on_openmp = threading::openmp_team_is_shared();
  threads.short_spinning = threading::parked_openmp_threads() > 0;
  threads.tensor_memory = threading::tensor_memory().limit;
  threads.onednn_rnn = rnn::onednn_is_used();
  return threads;
}

/// What becomes of OpenMP's idle threads: they spin or sleep beside BLAS's own, or run BLAS's products, too.
enum class Idle { kSpin, kSleep, kHelpBlas };

/// What of a plan a candidate goes without.
enum class Without { kNothing, kKernels, kMemory };

/// Those to try, the likeliest first, before it is known what can be set. `plan` is what optimize_system_for_training()
/// would set; `asked`: its number of threads is the user's own.
std::vector<MeasuredThreads> candidates_for(const ThreadPlan& plan, const MeasuredThreads& before, bool asked) {
  const threading::ThreadVariables variables = threading::read_thread_variables();
  const bool fixed = asked || variables.omp_num_threads || variables.mkl_num_threads;
  // OpenBLAS and MKL follow the others' variables where they have none of their own.
  const bool blas_fixed = fixed || variables.openblas_num_threads || before.blas == 0 ||
                          threading::blas_library() == threading::BlasLibrary::kOpenBlasOnOpenMp;
  std::vector<MeasuredThreads> candidates;
  const auto add = [&](int intra_op, int blas, Idle idle, Without without = Without::kNothing) {
    MeasuredThreads threads;
    // What was kept before stays kept.
    const bool memory = without != Without::kMemory && before.tensor_memory == 0;
    threads.tensor_memory = memory ? plan.tensor_memory : before.tensor_memory;
    threads.onednn_rnn = plan.onednn_rnn;
    if (without != Without::kKernels) threads.blas_kernels = plan.blas_kernels;
    threads.intra_op = fixed ? plan.intra_op : intra_op;
    threads.blas = blas_fixed ? plan.blas : blas;
    // One thread has nobody to wait for; what was shortened before stays so.
    threads.short_spinning = before.short_spinning || (idle == Idle::kSleep && threads.intra_op > 1);
    threads.blas_on_openmp = idle == Idle::kHelpBlas && threads.blas > 1 && threads.blas <= threads.intra_op;
    const auto known = [&](const MeasuredThreads& other) { return same(threads, other); };
    if (!known(before) && std::none_of(candidates.begin(), candidates.end(), known)) candidates.push_back(threads);
  };
  // More than plan.intra_op where a plan that knows nothing of the step takes one thread inside operators.
  const int most = std::max(plan.intra_op, plan.training);
  const Idle as_planned = plan.blas_on_openmp ? Idle::kHelpBlas : plan.short_spinning ? Idle::kSleep : Idle::kSpin;
  add(plan.intra_op, plan.blas, as_planned);
  add(most, plan.blas, as_planned);
  add(most, plan.blas, Idle::kSpin);
  add(1, 1, Idle::kSpin);
  add(most, 1, Idle::kSpin);
  add(1, plan.blas, Idle::kSpin);
  const int half = std::max(1, most / 2);
  add(half, half, as_planned);
  add(plan.inference, plan.inference, as_planned);
  add(plan.intra_op, plan.blas, as_planned, Without::kKernels);
  add(most, plan.blas, as_planned, Without::kMemory);
  add(before.intra_op, before.blas, Idle::kSpin);
  return candidates;
}

/// Undoes in reverse, also when the step throws.
class Trial {
 public:
  /// The destructor undoes what was set also where this throws.
  Trial(const MeasuredThreads& threads, const MeasuredThreads& before) : Trial() {
    plan_.intra_op = threads.intra_op;
    plan_.blas = threads.blas;
    plan_.blas_on_openmp = threads.blas_on_openmp;
    plan_.blas_kernels = threads.blas_kernels;
    plan_.tensor_memory = threads.tensor_memory;
    plan_.onednn_rnn = threads.onednn_rnn;
    plan_.short_spinning = threads.short_spinning && !before.short_spinning;
    PlanSetter setter(plan_, undo_);
    if (threads.intra_op != before.intra_op) setter.set_intra_op();
    if (threads.blas != before.blas) setter.set_blas();
    setter.set_blas_team();
    setter.set_blas_kernels();
    setter.shorten_spinning();
    setter.keep_tensor_memory();
    rnn::set_onednn_rnn(plan_, undo_);
  }
  ~Trial() { PlanSetter::put_back(std::move(undo_)); }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  /// As they were read back.
  MeasuredThreads threads(const MeasuredThreads& before) const {
    MeasuredThreads result = threads_in_force();
    result.short_spinning = before.short_spinning || plan_.short_spinning;
    result.blas_kernels = plan_.blas_kernels;
    return result;
  }

 private:
  Trial() = default;

  ThreadPlan plan_;
  PlanSetter::Undo undo_;
};

/// The candidates by the numbers that the system gives, each once and none as before.
std::vector<MeasuredThreads> settable(const std::vector<MeasuredThreads>& wanted, const MeasuredThreads& before) {
  std::vector<MeasuredThreads> result;
  for (const MeasuredThreads& threads : wanted) {
    const MeasuredThreads set = Trial(threads, before).threads(before);
    const auto known = [&](const MeasuredThreads& other) { return same(set, other); };
    if (!known(before) && std::none_of(result.begin(), result.end(), known)) result.push_back(set);
  }
  return result;
}

/// How a setting is measured.
struct Measurement {
  const std::function<void()>& step;
  const Clock& now;
  /// Steps that count, and the seconds of those before, after BLAS had another number of threads or the same.
  int steps = 1;
  double warming = 0;
  double warming_blas = 0;
  /// The threads that BLAS had in the last measurement, and whether they were OpenMP's.
  std::pair<int, bool> last_blas{};

  /// Of one step.
  std::optional<double> seconds(const MeasuredThreads& threads, const MeasuredThreads& before,
                                const threading::StepLimits& limits) {
    const Trial trial(threads, before);
    const std::pair blas(threads.blas, threads.blas_on_openmp);
    const double warm = std::exchange(last_blas, blas) == blas ? warming : warming_blas;
    const double begin = now();
    const int least = threads.tensor_memory != before.tensor_memory ? 1 : 0;
    for (int i = 0; i < kMostWarmingSteps && (i < least || now() - begin < warm); ++i) {
      const double step_begin = now();
      if (step_begin >= limits.end) return std::nullopt;
      step();
      if (const double took = now() - step_begin; took > limits.longest) return took;
    }
    return measured(limits);
  }

 private:
  std::optional<double> measured(const threading::StepLimits& limits) const {
    const double begin = now();
    double last = begin;
    for (int i = 0; i < steps; ++i) {
      const double step_begin = last;
      if (step_begin >= limits.end) return std::nullopt;
      step();
      last = now();
      if (last - step_begin > limits.longest) return last - step_begin;
    }
    return std::max((last - begin) / steps, 1e-9);  // a clock may stand still for a step
  }
};

/// Of the first steps, that allocate, compile and start threads, the least: they go on while they get faster, and while
/// there is time for them.
double first_steps(const std::function<void()>& step, const Clock& now, double time) {
  constexpr double kFaster = 0.9, kShareOfTime = 0.125;
  const double begin = now();
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kMostFirstSteps; ++i) {
    const double step_begin = now();
    if (i == 1 && step_begin - begin >= time) break;
    if (i > 1 && step_begin - begin + least > kShareOfTime * time) break;
    step();
    const double took = now() - step_begin;
    const bool faster = took < kFaster * least;
    least = std::min(least, took);
    if (i + 1 >= kLeastFirstSteps && !faster) break;
  }
  return std::max(least, 1e-7);
}

/// From the seconds of a step. Leaves as many of the result's candidates as enough rounds fit for in `left` seconds;
/// each round has the default twice.
Measurement plan_measurement(const std::function<void()>& step, const Clock& now, double step_seconds,
                             Calibration& result, double left) {
  Measurement measurement{step, now};
  measurement.steps = static_cast<int>(std::clamp(kMeasurementSeconds / step_seconds, 1.0, double{kMostSteps}));
  if (step_seconds < kLongStepSeconds) measurement.warming = measurement.warming_blas = kWarmingSeconds;
  measurement.last_blas = {result.before.blas, result.before.blas_on_openmp};
  const auto once = [&](double warming, bool fills_memory) {
    // The last of the steps that warm ends after that time.
    const double warm = std::max(std::ceil(warming / step_seconds), fills_memory ? 1.0 : 0.0);
    return (warm + measurement.steps) * step_seconds;
  };
  const auto needed = [&](double warming) {
    double round = 2 * once(warming, false);
    for (const MeasuredThreads& threads : result.candidates)
      round += once(warming, threads.tensor_memory != result.before.tensor_memory);
    return static_cast<double>(threading::least_rounds(result.candidates.size())) * round;
  };
  while (result.candidates.size() > 1 && needed(measurement.warming) > left) result.candidates.pop_back();
  if (measurement.warming > 0 && 2 * needed(kWarmingSecondsOfBlas) <= left)
    measurement.warming_blas = kWarmingSecondsOfBlas;
  return measurement;
}

std::string describe(const MeasuredThreads& threads) {
  std::string text = "intra_op = " + std::to_string(threads.intra_op);
  if (threads.blas > 0) text += ", blas = " + std::to_string(threads.blas);
  if (threads.blas_on_openmp) text += " on OpenMP's threads";
  if (!threads.blas_kernels.empty()) text += ", kernels for " + threads.blas_kernels;
  if (threads.short_spinning) text += ", idle threads sleep";
  if (threads.tensor_memory > 0) text += ", freed memory is kept";
  return text + (threads.onednn_rnn ? ", recurrent layers in oneDNN" : "");
}

void fill(MeasuredThreads& threads, const std::vector<double>& seconds, const threading::Gain& gain) {
  threads.step_seconds = threading::summarise(seconds).median;
  threads.gain = gain.median;
  threads.gain_low = gain.low;
  threads.gain_high = gain.high;
}

std::string sentence(const MeasuredThreads& threads) {
  return describe(threads) + ": " + text_of("%.4g ms a step", 1e3 * threads.step_seconds) +
         text_of(", %.3fx as fast", threads.gain) + text_of(" (%.3f", threads.gain_low) +
         text_of(" to %.3f in half of the rounds)", threads.gain_high);
}

/// Puts what was measured into words and numbers.
void report(const CalibrationRounds& rounds, const CalibrationOptions& options, Calibration& result) {
  result.rounds = static_cast<int>(rounds.first.size());
  std::vector<double> against_itself;
  for (size_t i = 0; i < rounds.first.size(); ++i) against_itself.push_back(rounds.first[i] / rounds.second[i]);
  if (result.rounds > 0) fill(result.before, rounds.first, threading::summarise(against_itself));
  std::vector<std::string>& reasons = result.plan.reasons;
  reasons.push_back("as before: " + sentence(result.before) + ", which is chance");
  for (size_t i = 0; i < result.candidates.size(); ++i) {
    if (rounds.candidates[i].empty()) continue;
    fill(result.candidates[i], rounds.candidates[i], threading::gain_of(rounds, i));
    const bool gave_up = rounds.abandoned[i] || rounds.candidates[i].size() < rounds.first.size();
    reasons.push_back(sentence(result.candidates[i]) +
                      (gave_up ? ", given up in round " + std::to_string(rounds.candidates[i].size()) : ""));
  }
  const double noise = threading::noise_of(rounds);
  const std::string bound = text_of("%.1f %%", 100 * std::max(options.least_gain, noise));
  if (const auto chosen = threading::choose(rounds, options.least_gain)) {
    result.chosen = static_cast<int>(*chosen);
    reasons.push_back("kept: " + describe(result.candidates[*chosen]) + ", as it gains more than " + bound +
                      " beyond chance");
  } else if (result.candidates.empty()) {
    reasons.emplace_back("nothing is changed: there is nothing else to try");
  } else if (threading::all_given_up(rounds)) {
    reasons.emplace_back("nothing is changed: all else is slower");
  } else if (rounds.first.size() < threading::least_rounds(result.candidates.size())) {
    reasons.push_back("nothing is changed: " + std::to_string(rounds.first.size()) + " rounds in " +
                      text_of("%.1f s", result.seconds) + " are too few to decide, " +
                      std::to_string(threading::least_rounds(result.candidates.size())) +
                      " are needed; give it more time");
  } else {
    reasons.push_back("nothing is changed: nothing else gains more than " + bound + " beyond chance");
  }
}

/// Puts the chosen threads into force for good, or notes those that are.
void apply(Calibration& result, const ThreadingOptions& options) {
  const MeasuredThreads& threads =
      result.chosen >= 0 ? result.candidates[static_cast<size_t>(result.chosen)] : result.before;
  result.plan.intra_op = result.plan.training = threads.intra_op;
  result.plan.blas = threads.blas;
  result.plan.blas_on_openmp = threads.blas_on_openmp;
  result.plan.short_spinning = threads.short_spinning;
  result.plan.blas_kernels = threads.blas_kernels;
  result.plan.tensor_memory = threads.tensor_memory;
  result.plan.onednn_rnn = threads.onednn_rnn && options.onednn_rnn;
  // Not measured, so left as they are unless they are asked for.
  if (options.inter_op == 0) result.plan.inter_op = static_cast<int>(at::get_num_interop_threads());
  if (options.primitive_cache == 0) result.plan.primitive_cache = 0;
  AppliedPlan applied = ThreadingOptimizer(options).apply(result.plan);
  applied.keep();
  result.plan = applied.plan();
}

}  // namespace

std::string Calibration::explain() const {
  std::string text =
      "torchfeed: threads by measuring, " + std::to_string(rounds) + " rounds in " + text_of("%.1f s\n", seconds);
  for (const std::string& reason : plan.reasons) text += "  " + reason + "\n";
  return text;
}

Calibration calibrate(const std::function<void()>& step, const CalibrationOptions& options) {
  TORCH_CHECK(step, "calibrate: expected a step to call, got an empty function");
  TORCH_CHECK(options.time.count() > 0, "CalibrationOptions: expected time above 0 ms, got ", options.time.count(),
              " ms");
  TORCH_CHECK(options.least_gain >= 0 && options.least_gain <= 1,
              "CalibrationOptions: expected least_gain from 0 to 1, got ", options.least_gain);
  const Clock now = options.now ? options.now : steady_seconds;
  const double begin = now();
  Calibration result;
  result.before = threads_in_force();
  result.plan = ThreadingOptimizer(options.threading).plan(options.workload);
  result.candidates =
      settable(candidates_for(result.plan, result.before, options.threading.intra_op > 0), result.before);
  result.plan.reasons.clear();
  const double time = std::chrono::duration<double>(options.time).count();
  const double step_seconds = result.before.step_seconds = first_steps(step, now, time);
  const double left = time - (now() - begin);
  Measurement measurement = plan_measurement(step, now, step_seconds, result, left);
  const CalibrationRounds rounds = threading::measure_rounds(
      result.candidates.size(), left,
      [&](size_t setting, const threading::StepLimits& limits) {
        return measurement.seconds(setting == 0 ? result.before : result.candidates[setting - 1], result.before,
                                   limits);
      },
      now);
  result.seconds = now() - begin;
  report(rounds, options, result);
  apply(result, options.threading);
  if (options.verbose) std::fputs(result.explain().c_str(), stderr);
  return result;
}

}  // namespace torchfeed
