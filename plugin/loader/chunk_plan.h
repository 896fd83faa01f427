#pragma once

#include <torchfeed/plugin/batch_codec.h>

#include <torch/data/samplers/base.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace torchfeed::loader {

/// Items of a parallel_map that one worker is asked for: [begin, end). What stands for indices in its loader.
struct ItemRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t size() const noexcept { return end - begin; }
  /// For messages.
  std::vector<std::size_t> indices() const;
  /// "item 7", "items 5 to 9"; "no items".
  std::string text() const;
};

/// Cuts items into chunks: so large that handing one out costs little beside it, so small that workers end together.
///
/// A worker gives back what it could not do of a chunk within `patience()`, and others are asked for that at once, so a
/// chunk that was too large, as items are not alike, delays nothing for long. Used by the caller's thread.
class ChunkPlan {
 public:
  /// `fixed_size`: of all chunks but the last; 0: by what they cost.
  ChunkPlan(std::size_t items, std::size_t workers, std::size_t fixed_size);

  /// What to ask for next; none if all is asked for, until something is given back.
  std::optional<ItemRange> next();
  /// Whether next() has none now.
  bool all_asked() const noexcept { return asked_ == items_ && returned_.empty(); }

  /// Chunks of no fixed size have results of so many bytes at most, as far as that can be told from those before.
  void set_most_bytes(std::uint64_t bytes) noexcept { most_bytes_ = static_cast<double>(bytes); }

  /// The first `made` items of `asked` are done; making them took a worker `seconds`, their results take `bytes` (0
  /// where that does not matter).
  void done(const ItemRange& asked, std::size_t made, double seconds, std::uint64_t bytes = 0);

  /// Whether all items are done.
  bool finished() const noexcept { return made_ == items_; }

  /// How long a worker may stay at a chunk before it gives back the rest of it; the largest value: to its end.
  std::chrono::nanoseconds patience() const noexcept;

 private:
  std::size_t next_size() const noexcept;

  std::size_t items_;
  std::size_t workers_;
  std::size_t fixed_size_;
  std::size_t asked_ = 0;  // items in [0, asked_) were asked for, but for those given back
  std::size_t made_ = 0;
  std::size_t given_back_ = 0;  // items in returned_
  std::deque<ItemRange> returned_;
  double item_seconds_ = 0;  // of late; 0: not known
  double item_bytes_ = 0;
  double most_bytes_ = std::numeric_limits<double>::infinity();
};

/// A ChunkPlan in a sampler's place. It goes on: ended() says whether there is nothing to ask for now, and what workers
/// give back later is asked for then, in the same epoch.
class ChunkSampler final : public torch::data::samplers::Sampler<ItemRange> {
 public:
  explicit ChunkSampler(ChunkPlan& plan) : plan_(&plan) {}

  static constexpr bool kGoesOn = true;

  bool ended() const noexcept { return plan_->all_asked(); }
  void reset(detail::TorchOptional<std::size_t> /*new_size*/ = {}) override {}
  detail::TorchOptional<ItemRange> next(std::size_t /*batch_size*/) override {
    const auto range = plan_->next();
    return range ? detail::TorchOptional<ItemRange>(*range) : detail::TorchOptional<ItemRange>();
  }
  void save(torch::serialize::OutputArchive& /*archive*/) const override {}
  void load(torch::serialize::InputArchive& /*archive*/) override {}

 private:
  ChunkPlan* plan_;
};

}  // namespace torchfeed::loader

template <>
struct torchfeed::BatchCodec<torchfeed::loader::ItemRange> {
  static void encode(BatchWriter& writer, const loader::ItemRange& range) { writer.value(range); }
  static loader::ItemRange decode(BatchReader& reader) { return reader.value<loader::ItemRange>(); }
};
