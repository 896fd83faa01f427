#pragma once

#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <torch/data/samplers/stream.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace torchfeed::loader {

/// Datasets that have a place which they go on from, not indices: stateful ones, and those that a StreamSampler asks
/// for a number of samples. Each worker process has its own, so each batch is a certain worker's to make.
template <typename Dataset, typename Request>
inline constexpr bool kIsStream = Dataset::is_stateful || std::is_same_v<Request, torch::data::samplers::BatchSize>;

/// How many samples a stream's request asks for. Stateful datasets are asked for batches of one size.
template <typename Dataset, typename Request>
std::uint64_t samples_asked(const Request& request, std::uint64_t batch_size) {
  if constexpr (Dataset::is_stateful) {
    return batch_size;
  } else {
    return request.size();
  }
}

/// Where in a stream a batch begins.
struct StreamPlace {
  std::uint64_t position = 0;    ///< samples that the shard has been asked for before, in this epoch if it is stateful
  std::uint64_t batch_size = 1;  ///< of all batches but an epoch's last
  std::uint64_t shard = 0;
  std::uint64_t shards = 1;
};

/// A dataset as one worker has it, and how far it was read if it is a stream.
///
/// Streams are read forward only. A worker in place of a dead one, and a loader that resumes, has a stream from its
/// beginning: it makes again, and drops, the batches before the one that it is asked for.
/// Used by one thread at a time, unless the dataset is stateful and shared by threads (then `catch_up` is the
/// trainer's).
template <typename Dataset, typename Request>
class DatasetShard {
 public:
  explicit DatasetShard(Dataset dataset) : dataset_(std::move(dataset)) {}

  Dataset& dataset() noexcept { return dataset_; }

  typename Dataset::BatchType get_batch(Request request) { return dataset_.get_batch(std::move(request)); }

  /// Brings a stream to the place where batch `id` begins. Throws c10::Error if it is beyond that already, and what a
  /// stateful dataset's reset() throws.
  void catch_up([[maybe_unused]] const BatchId& id, [[maybe_unused]] const StreamPlace& place,
                [[maybe_unused]] Workplace workplace) {
    if constexpr (Dataset::is_stateful) {
      if (std::exchange(rewind_, false) || position_ > place.position) {
        epoch_ = std::min(epoch_, id.epoch - 1);
      }
      epoch_ = std::min(epoch_, id.epoch);
      for (; epoch_ < id.epoch; ++epoch_) {
        // What a reset draws is the same wherever it runs: parts of a shuffled stream have to fit together.
        const BatchScope scope({id.seed, epoch_ + 1, kReset}, nullptr, workplace);
        dataset_.reset();
        position_ = 0;
      }
    }
    if constexpr (kIsStream<Dataset, Request>) {
      TORCH_CHECK(position_ <= place.position, "torchfeed: a stream dataset cannot go back: expected at most ",
                  place.position, " samples to be read, got ", position_, " (load the state into a new loader)");
      for (; position_ < place.position;) {
        const std::uint64_t size = std::min(place.batch_size, place.position - position_);
        make_and_drop({id.seed, id.epoch, place.shard + position_ / place.batch_size * place.shards}, size, workplace);
        position_ += size;
      }
    }
  }

  /// A batch of `size` samples was asked for, whatever came of it.
  void advance(std::uint64_t size) noexcept { position_ += size; }

  /// Makes the next catch_up() reset a stateful dataset, as load_state() goes back.
  void rewind() noexcept { rewind_ = true; }

 private:
  /// Stands for a batch's number where the epoch begins.
  static constexpr std::uint64_t kReset = ~std::uint64_t{0};

  void make_and_drop(const BatchId& id, std::uint64_t size, Workplace workplace) {
    const BatchScope scope(id, nullptr, workplace);
    try {
      static_cast<void>(dataset_.get_batch(typename Dataset::BatchRequestType(static_cast<std::size_t>(size))));
    } catch (...) {  // it reached the training loop when the batch was made first
    }
  }

  Dataset dataset_;
  std::uint64_t epoch_ = 0;
  std::uint64_t position_ = 0;
  bool rewind_ = false;
};

}  // namespace torchfeed::loader
