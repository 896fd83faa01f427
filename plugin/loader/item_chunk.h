#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/batch_scope.h>
#include <torchfeed/plugin/loader/chunk_plan.h>
#include <torchfeed/plugin/loader/item_board.h>
#include <torchfeed/plugin/loader/item_error.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace torchfeed::loader {

/// Results of a chunk's first items: of all, unless there is an error, the worker's patience was at its end, or the
/// caller has cancelled.
template <typename Result>
struct ItemChunk {
  ItemRange asked;
  std::vector<Result> results;
  std::unique_ptr<ItemError> error;  ///< of the item behind the results, if it threw
  mutable std::size_t written = 0;   ///< results that its codec has written
};

/// A user's function of one item, by the item's number; a reference to it.
template <typename Result>
struct ItemFunction {
  void* context = nullptr;
  Result (*call)(void* context, std::size_t item) = nullptr;

  Result operator()(std::size_t item) const { return call(context, item); }
};

/// What all items of one parallel_map have in common.
struct ItemJob {
  ItemBoard* board = nullptr;
  std::uint64_t seed = 0;
  Workplace place = Workplace::kWorkerThread;
  std::chrono::nanoseconds patience{};
};

/// The items of a parallel_map as a dataset: a request is a range of them, a batch their results. Holds references, so
/// that each worker thread's copy is the same.
template <typename Result>
class ItemDataset {
 public:
  using BatchType = ItemChunk<Result>;
  using BatchRequestType = ItemRange;
  static constexpr bool is_stateful = false;
  static constexpr bool kMakesOnce = true;  // a user's function may have effects

  ItemDataset(ItemFunction<Result> function, const ItemJob& job) : function_(function), job_(job) {}

  ItemChunk<Result> get_batch(ItemRange range) {
    using Clock = std::chrono::steady_clock;
    ItemChunk<Result> chunk;
    chunk.asked = range;
    const int worker = worker_info()->id;
    const auto begin = Clock::now();
    for (std::size_t item = range.begin; item < range.end && !job_.board->cancelled(); ++item) {
      job_.board->set_item(worker, item);
      // By item, as it depends on the workers' speed which chunk it is in.
      reseed({job_.seed, 0, item}, job_.place);
      try {
        chunk.results.push_back(function_(item));
      } catch (...) {
        chunk.error = current_item_error(item, worker);
        job_.board->cancel();  // at once, and not only when the caller has seen it
        break;
      }
      if (Clock::now() - begin >= job_.patience) {
        break;
      }
    }
    job_.board->set_item(worker, ItemBoard::kNoItem);
    return chunk;
  }

  /// In a catch block, when a chunk cannot be sent: throws the exception at hand with the item whose result it was.
  [[noreturn]] static void throw_unsent(const ItemChunk<Result>& chunk, int worker) {
    const ItemRange made{chunk.asked.begin, chunk.asked.begin + chunk.results.size()};
    throw_unsent_items(made, made.begin + chunk.written, worker);
  }

 private:
  ItemFunction<Result> function_;
  ItemJob job_;
};

}  // namespace torchfeed::loader

template <torchfeed::Sendable Result>
struct torchfeed::BatchCodec<torchfeed::loader::ItemChunk<Result>> {
  using Chunk = loader::ItemChunk<Result>;

  static void encode(BatchWriter& writer, const Chunk& chunk) {
    BatchCodec<loader::ItemRange>::encode(writer, chunk.asked);
    BatchCodec<std::unique_ptr<loader::ItemError>>::encode(writer, chunk.error);
    chunk.written = 0;
    if constexpr (kInOnePiece) {
      BatchCodec<std::vector<Result>>::encode(writer, chunk.results);
      chunk.written = chunk.results.size();
    } else {
      writer.value<std::uint64_t>(chunk.results.size());
      for (; chunk.written < chunk.results.size(); ++chunk.written) {
        BatchCodec<Result>::encode(writer, chunk.results[chunk.written]);
      }
    }
  }

  static Chunk decode(BatchReader& reader) {
    Chunk chunk;
    chunk.asked = BatchCodec<loader::ItemRange>::decode(reader);
    chunk.error = BatchCodec<std::unique_ptr<loader::ItemError>>::decode(reader);
    if constexpr (kInOnePiece) {
      chunk.results = BatchCodec<std::vector<Result>>::decode(reader);
    } else {
      const auto size = static_cast<std::size_t>(reader.value<std::uint64_t>());
      chunk.results.reserve(size);
      for (std::size_t i = 0; i < size; ++i) {
        chunk.results.push_back(BatchCodec<Result>::decode(reader));
      }
    }
    return chunk;
  }

 private:
  // Else one by one, whatever codec a vector of them may have: it is an item's result that can or cannot be sent.
  static constexpr bool kInOnePiece = requires { requires BatchCodec<std::vector<Result>>::kInOnePiece; };
};
