#pragma once

#include <torchfeed/plugin/threading/planner.h>

namespace torchfeed::threading {

/// This machine, as it is now: what a plan depends on but for LibTorch's own numbers, the kernels that BLAS runs, the
/// workload and the user's options.
PlanInputs read_machine();

}  // namespace torchfeed::threading
