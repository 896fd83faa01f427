#pragma once

#include <torchfeed/plugin/threading/planner.h>

#include <map>
#include <string>
#include <vector>

namespace torchfeed::threading {

/// A machine in hwloc's synthetic notation, with OpenBLAS; nothing else is known of it.
inline PlanInputs machine(const std::string& description, const std::vector<int>& mask = {}) {
  PlanInputs inputs;
  inputs.topology = topology_from_synthetic(description, mask);
  inputs.blas = BlasLibrary::kOpenBlas;
  return inputs;
}

/// Those of an environment of these variables alone.
inline ThreadVariables variables(const std::map<std::string, std::string>& values) {
  return read_thread_variables([&](const char* name) -> const char* {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : found->second.c_str();
  });
}

inline bool has_reason(const std::vector<std::string>& reasons, const std::string& text) {
  for (const auto& reason : reasons)
    if (reason.find(text) != std::string::npos) return true;
  return false;
}

}  // namespace torchfeed::threading
