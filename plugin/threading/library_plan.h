#pragma once

#include <torchfeed/plugin/threading/planner.h>

namespace torchfeed::threading {

/// The parts of plan_threads() that are about libraries and not about cores. Pure functions. Each plan_...() sets a
/// field of the plan and adds its reason; plan_blas_team() after intra_op and blas.
void plan_blas_team(const PlanInputs& inputs, ThreadPlan& plan);
void plan_blas_kernels(const PlanInputs& inputs, ThreadPlan& plan);
void plan_primitive_cache(const PlanInputs& inputs, ThreadPlan& plan);
void plan_tensor_memory(const PlanInputs& inputs, ThreadPlan& plan);
void plan_onednn_rnn(const PlanInputs& inputs, ThreadPlan& plan);

/// Whether OpenBLAS's products could run on so many of OpenMP's threads.
bool openmp_team_suits(const PlanInputs& inputs, int threads);

}  // namespace torchfeed::threading
