#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/chunk_plan.h>
#include <torchfeed/plugin/loader/slot_ring.h>

#include <cstddef>
#include <exception>
#include <memory>

namespace torchfeed::loader {

/// What parallel_map's function threw, and for which item.
struct ItemError {
  std::size_t item = 0;
  ErrorRecord record{};
  std::exception_ptr original;  ///< null in another process than the one it was thrown in
};

/// In a catch block: the exception at hand.
std::unique_ptr<ItemError> current_item_error(std::size_t item, int worker);

/// Throws it, its type kept as a DataLoader's worker process does, with the item's number before its text. The original
/// is nested in it, if this is its process.
[[noreturn]] void throw_item_error(const ItemError& error);

/// In a catch block: throws the exception at hand for `item` of those that were made, whose result could not be
/// written; for all of them if it is their end.
[[noreturn]] void throw_unsent_items(const ItemRange& made, std::size_t item, int worker);

}  // namespace torchfeed::loader

template <>
struct torchfeed::BatchCodec<torchfeed::loader::ItemError> {
  static void encode(BatchWriter& writer, const loader::ItemError& error) {
    writer.value(error.item);
    writer.value(error.record);
  }
  static loader::ItemError decode(BatchReader& reader) {
    loader::ItemError error;
    error.item = reader.value<std::size_t>();
    error.record = reader.value<loader::ErrorRecord>();
    return error;
  }
};
