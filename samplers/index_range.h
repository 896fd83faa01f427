#pragma once

#include <cstddef>

namespace torchfeed::samplers {

/// The indices [begin, end).
struct IndexRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t size() const noexcept { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

}  // namespace torchfeed::samplers
