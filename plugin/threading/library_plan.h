#pragma once

#include <torchfeed/plugin/threading/planner.h>

namespace torchfeed::threading {

/// The parts of plan_threads() that are about libraries and not about cores. Each sets a field of the plan and adds its
/// reason. Pure functions.
void plan_blas_kernels(const PlanInputs& inputs, ThreadPlan& plan);
void plan_primitive_cache(const PlanInputs& inputs, ThreadPlan& plan);
void plan_tensor_memory(const PlanInputs& inputs, ThreadPlan& plan);
void plan_onednn_rnn(const PlanInputs& inputs, ThreadPlan& plan);

}  // namespace torchfeed::threading
