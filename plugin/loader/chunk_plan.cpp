#include <torchfeed/plugin/loader/chunk_plan.h>

#include <algorithm>
#include <numeric>

namespace torchfeed::loader {
namespace {

// Handing out a chunk costs some 20 to 50 us of system calls and wake-ups: a hundredth of this.
constexpr double kChunkSeconds = 5e-3;
// Before the rest of a chunk is given back.
constexpr std::chrono::milliseconds kPatience{20};
// A chunk is at most such a part of what is left for each worker, so that the last ones are small.
constexpr std::size_t kSharesLeft = 2;

}  // namespace

std::vector<std::size_t> ItemRange::indices() const {
  std::vector<std::size_t> indices(size());
  std::iota(indices.begin(), indices.end(), begin);
  return indices;
}

std::string ItemRange::text() const {
  if (size() <= 1) {
    return size() == 0 ? "no items" : "item " + std::to_string(begin);
  }
  return "items " + std::to_string(begin) + " to " + std::to_string(end - 1);
}

ChunkPlan::ChunkPlan(std::size_t items, std::size_t workers, std::size_t fixed_size)
    : items_(items), workers_(std::max<std::size_t>(workers, 1)), fixed_size_(fixed_size) {}

std::optional<ItemRange> ChunkPlan::next() {
  if (all_asked()) {
    return std::nullopt;
  }
  const std::size_t size = next_size();
  if (returned_.empty()) {
    const ItemRange range{asked_, asked_ + std::min(size, items_ - asked_)};
    asked_ = range.end;
    return range;
  }
  ItemRange& oldest = returned_.front();
  const ItemRange range{oldest.begin, oldest.begin + std::min(size, oldest.size())};
  given_back_ -= range.size();
  oldest.begin = range.end;
  if (oldest.size() == 0) {
    returned_.pop_front();
  }
  return range;
}

void ChunkPlan::done(const ItemRange& asked, std::size_t made, double seconds, std::uint64_t bytes) {
  made_ += made;
  if (made < asked.size()) {
    returned_.push_back({asked.begin + made, asked.end});
    given_back_ += returned_.back().size();
  }
  if (made > 0) {
    const double cost = seconds / static_cast<double>(made);
    item_seconds_ = item_seconds_ == 0 ? cost : (item_seconds_ + cost) / 2;
    // The largest, as a chunk that does not fit into shared memory is an error.
    item_bytes_ = std::max(item_bytes_, static_cast<double>(bytes) / static_cast<double>(made));
  }
}

std::chrono::nanoseconds ChunkPlan::patience() const noexcept {
  return fixed_size_ > 0 ? std::chrono::nanoseconds::max() : std::chrono::nanoseconds(kPatience);
}

std::size_t ChunkPlan::next_size() const noexcept {
  if (fixed_size_ > 0) {
    return fixed_size_;
  }
  if (item_seconds_ == 0) {
    return 1;
  }
  const std::size_t left = items_ - asked_ + given_back_;
  const std::size_t fair = std::max<std::size_t>(left / (kSharesLeft * workers_), 1);
  const double paying = std::min(kChunkSeconds / item_seconds_, most_bytes_ / std::max(item_bytes_, 1.0));
  return paying < static_cast<double>(fair) ? std::max(static_cast<std::size_t>(paying), std::size_t{1}) : fair;
}

}  // namespace torchfeed::loader
