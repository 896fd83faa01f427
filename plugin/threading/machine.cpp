#include <torchfeed/plugin/threading/machine.h>

#include <torchfeed/plugin/threading/blas_kernels.h>
#include <torchfeed/plugin/threading/blas_team.h>
#include <torchfeed/plugin/threading/blas_threads.h>
#include <torchfeed/plugin/threading/cgroup_limits.h>
#include <torchfeed/plugin/threading/free_memory.h>
#include <torchfeed/plugin/threading/topology.h>

namespace torchfeed::threading {

PlanInputs read_machine() {
  PlanInputs inputs;
  inputs.topology = load_topology();
  inputs.quota = read_cpu_quota();
  inputs.memory = read_free_memory();
  inputs.variables = read_thread_variables();
  inputs.blas = blas_library();
  inputs.blas_team = can_share_openmp_team();
  inputs.features = cpu_features();
  return inputs;
}

}  // namespace torchfeed::threading
