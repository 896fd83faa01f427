#pragma once

#include <torchfeed/plugin/convert/block.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace torchfeed::convert {

/// to = from * scale + shift: one number each, or one a channel.
struct Affine {
  std::vector<double> scale{1};
  std::vector<double> shift{0};
};

/// A tensor to be converted, or one of several that become one.
struct Source {
  const void* data = nullptr;
  Dims strides;  ///< in elements, of the result's dimensions
};

/// Sources of one dtype and size, which lie in the result one after the other along its first dimension.
struct Job {
  at::ScalarType from = at::kFloat;
  at::ScalarType to = at::kFloat;
  Dims sizes;        ///< of one source, in the order of the result's dimensions
  int channel = -1;  ///< the dimension of the channels, not the first; -1 if there are none
  std::vector<Source> sources;
};

/// Calls `body`, which throws nothing, once in each thread of a team of so many.
using Team = int (*)(int threads, const std::function<void()>& body);

/// Converts into `result`, memory without gaps that overlaps no source, by blocks that fit the cache, which up to
/// `threads` of a team share. False, with nothing written, where oneDNN cannot do all of it.
bool convert_with_onednn(const Job& job, const Affine& affine, void* result, int threads, Team team);

}  // namespace torchfeed::convert
