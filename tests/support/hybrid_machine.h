#pragma once

#include <string>

#include "support/temp_dir.h"

namespace torchfeed::testing {

/// Writes an hwloc file of a hybrid machine and gives its path: performance cores 0 and 1 with two hardware threads
/// each (CPUs 0 to 3), efficiency cores 2 to 5 with one each (CPUs 4 to 7). `kinds` are its cpukind elements.
inline std::string write_hybrid_machine(
    const TempDir& directory,
    const std::string& kinds =
        " <cpukind cpuset=\"0xf0\"><info name=\"CoreType\" value=\"IntelAtom\"/></cpukind>\n"
        " <cpukind cpuset=\"0x0f\"><info name=\"CoreType\" value=\"IntelCore\"/></cpukind>\n") {
  const auto sets = [](const char* cpus) {
    return std::string(" cpuset=\"") + cpus + "\" complete_cpuset=\"" + cpus +
           "\" nodeset=\"0x1\" complete_nodeset=\"0x1\"";
  };
  const char* masks[] = {"0x1", "0x2", "0x4", "0x8", "0x10", "0x20", "0x40", "0x80"};
  const auto pu = [&](int cpu) {
    return "   <object type=\"PU\" os_index=\"" + std::to_string(cpu) + "\"" + sets(masks[cpu]) + "/>\n";
  };
  std::string text =
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
      "<topology version=\"2.0\">\n"
      " <object type=\"Machine\" os_index=\"0\" allowed_cpuset=\"0xff\" allowed_nodeset=\"0x1\"" +
      sets("0xff") + ">\n  <object type=\"NUMANode\" os_index=\"0\" local_memory=\"1073741824\"" + sets("0xff") +
      "/>\n";
  const auto core = [&](int number, const char* cpus, const std::string& threads) {
    text += "  <object type=\"Core\" os_index=\"" + std::to_string(number) + "\"" + sets(cpus) + ">\n" + threads +
            "  </object>\n";
  };
  core(0, "0x3", pu(0) + pu(1));
  core(1, "0xc", pu(2) + pu(3));
  for (int number = 2; number < 6; ++number) core(number, masks[number + 2], pu(number + 2));
  text += " </object>\n" + kinds + "</topology>\n";
  return directory.write("hybrid.xml", text);
}

}  // namespace torchfeed::testing
