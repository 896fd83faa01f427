#pragma once

#include <torchfeed/plugin/loader/batch_maker.h>
#include <torchfeed/plugin/loader/dataset_shard.h>
#include <torchfeed/plugin/loader/lease.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// What a training loop gets of a dataset: its batches, without the optional that a stateful dataset wraps them in.
template <typename Dataset, bool = Dataset::is_stateful>
struct BatchOf {
  using Type = typename Dataset::BatchType;
};
template <typename Dataset>
struct BatchOf<Dataset, true> {
  using Type = typename Dataset::BatchType::value_type;
};

/// A dataset's batch as what its user gets; none where a stateful dataset says that it has no more.
template <typename Dataset>
std::optional<typename BatchOf<Dataset>::Type> unwrap_batch(typename Dataset::BatchType batch) {
  if constexpr (Dataset::is_stateful) {
    if (!batch) {
      return std::nullopt;
    }
    return std::move(*batch);
  } else {
    return batch;
  }
}

/// A BatchMaker with its types: what the loader puts into slots and takes out of them.
template <typename Dataset, typename Request>
class DatasetBatchMaker : public BatchMaker {
 public:
  /// Trainer, before there are so many workers: makes what each has for itself.
  virtual void prepare(std::size_t /*workers*/) {}
  /// Trainer: writes a free slot's request, which may be moved from if that succeeds.
  virtual void put_request(std::uint32_t slot, Request& request) = 0;
  /// Trainer: reads a slot's batch, once. Its tensors share `lease`, or are copies if there is none. None at the end of
  /// a stateful dataset.
  virtual std::optional<typename BatchOf<Dataset>::Type> take_batch(std::uint32_t slot, Lease* lease) = 0;
};

/// Whether a dataset says that what it does must not be done again for a batch, as parallel_map's does. Then a worker's
/// death is an error at once, a batch in a worker process waits there for memory, its tensors are copied out of their
/// slot, empty_batch() is at::empty, and errors are told as the dataset tells them, without the batch (throw_unsent()
/// where a batch cannot be written). For loaders that take results as they come, in_order(false).
template <typename Dataset>
inline constexpr bool kMakesOnce = requires {
  requires Dataset::kMakesOnce;
};

/// The indices that a request holds, for messages.
template <typename Request>
std::vector<std::size_t> indices_of(const Request& request) {
  if constexpr (std::is_same_v<Request, std::vector<std::size_t>>) {
    return request;
  } else if constexpr (requires { request.indices(); }) {
    return request.indices();
  } else {
    return {};
  }
}

}  // namespace torchfeed::loader
