#include <torchfeed/plugin/threading/malloc_learning.h>

#include <cstddef>
#include <cstdlib>

namespace torchfeed::threading {

void teach_malloc_to_keep() noexcept {
  constexpr std::size_t kLargestToLearnFrom = (std::size_t{32} << 20) - (std::size_t{64} << 10);
  void* volatile block = std::malloc(kLargestToLearnFrom);
  std::free(block);
}

}  // namespace torchfeed::threading
