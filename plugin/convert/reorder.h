#pragma once

#include <torchfeed/plugin/convert/block.h>

#include <memory>
#include <vector>

namespace torchfeed::convert {

/// A oneDNN reorder: to = from * scale, computed in float32; rounded to the nearest, ties to even, and held to the
/// range where `to` is an integer.
class Reorder {
 public:
  virtual ~Reorder() = default;

  /// The one for blocks like this, which has at least one element: `scale` is one number or one a channel. Null where
  /// oneDNN has none, or only its reference implementation, which is slower than ATen.
  ///
  /// Made for one OpenMP thread, and kept for the calling thread, the last 64. Threads share none of this, so that
  /// finding one takes no lock. Making one does: oneDNN keeps a cache of its own for the whole process, whose lock
  /// another thread that makes a primitive at that moment would hold in a forked child.
  static std::shared_ptr<const Reorder> find(const Block& block, const std::vector<float>& scale);

  /// The pointers are those of the first elements. May be called by any thread, by several at once. Throws c10::Error
  /// if oneDNN fails.
  virtual void run(const void* from, void* to) const = 0;
};

/// Looks up what `find` needs of the loader of libraries, whose lock another thread may hold while a worker is forked.
void prepare_reorders();

}  // namespace torchfeed::convert
