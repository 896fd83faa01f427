#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// The trainer's book about a stream that workers read, each its own part: whose turn it is, how far each was asked
/// for, and whose part has ended. Batch b of an epoch is worker b mod n's, so that the same number of workers gives the
/// same batches; numbers that fall to one whose part has ended are left out.
class StreamShards {
 public:
  struct Turn {
    std::uint64_t batch;
    std::uint64_t position;
    std::size_t shard;
  };

  explicit StreamShards(std::size_t shards) : positions_(shards, 0) {}

  std::size_t size() const noexcept { return positions_.size(); }
  /// One number a shard: samples asked for, or -1.
  const std::vector<std::int64_t>& positions() const noexcept { return positions_; }
  /// load_state(): as positions() was.
  void set_positions(std::vector<std::int64_t> positions) { positions_ = std::move(positions); }

  /// Who makes the first batch whose number is at least `batch`; none if all parts have ended.
  std::optional<Turn> next(std::uint64_t batch) const noexcept {
    for (std::size_t tries = 0; tries < size(); ++tries, ++batch) {
      const auto shard = static_cast<std::size_t>(batch % size());
      if (positions_[shard] >= 0) {
        return Turn{batch, static_cast<std::uint64_t>(positions_[shard]), shard};
      }
    }
    return std::nullopt;
  }
  bool ended() const noexcept { return !next(0); }

  void ask(std::size_t shard, std::uint64_t samples) noexcept {
    positions_[shard] += static_cast<std::int64_t>(samples);
  }
  /// A request for what follows `position` was taken back.
  void take_back(std::size_t shard, std::uint64_t position) noexcept {
    positions_[shard] = std::min(positions_[shard], static_cast<std::int64_t>(position));
  }
  void end(std::size_t shard) noexcept { positions_[shard] = -1; }
  /// A new epoch of a stateful dataset.
  void restart() noexcept { positions_.assign(positions_.size(), 0); }

 private:
  std::vector<std::int64_t> positions_;
};

}  // namespace torchfeed::loader
