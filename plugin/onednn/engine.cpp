#include <torchfeed/plugin/onednn/engine.h>

#include <algorithm>
#include <vector>

namespace torchfeed::onednn {

const dnnl::engine& engine() {
  static const auto* const kEngine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *kEngine;
}

dnnl::stream& stream() {
  thread_local dnnl::stream stream(engine());
  return stream;
}

void* scratchpad(std::size_t bytes) {
  thread_local std::vector<std::max_align_t> memory;
  memory.resize(std::max(memory.size(), bytes / sizeof(std::max_align_t) + 1));
  return memory.data();
}

}  // namespace torchfeed::onednn
