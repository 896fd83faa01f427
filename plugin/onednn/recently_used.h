#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <utility>

namespace torchfeed::onednn {

/// The values that were used last, at most so many. Not for several threads.
template <typename Key, typename Value, std::size_t kCapacity>
class RecentlyUsed {
 public:
  /// The value of that key, made by `make` where it is not there.
  template <typename Make>
  const Value& find(const Key& key, Make make) {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
    if (found != entries_.end()) {
      entries_.splice(entries_.begin(), entries_, found);
    } else {
      entries_.emplace_front(key, make());
      if (entries_.size() > kCapacity) entries_.pop_back();
    }
    return entries_.front().second;
  }

 private:
  std::list<std::pair<Key, Value>> entries_;  // the latest first
};

}  // namespace torchfeed::onednn
