#include <torchfeed/plugin/loader/error_codec.h>
#include <torchfeed/plugin/loader/item_error.h>

#include <string>

namespace torchfeed::loader {

std::unique_ptr<ItemError> current_item_error(std::size_t item, int worker) {
  auto error = std::make_unique<ItemError>();
  error->item = item;
  encode_current_exception(error->record, worker);
  error->original = std::current_exception();
  return error;
}

void throw_unsent_items(const ItemRange& made, std::size_t item, int worker) {
  ErrorRecord record{};
  encode_current_exception(record, worker);
  const ItemRange unsent = item < made.end ? ItemRange{item, item + 1} : made;
  throw_text(record, "parallel_map: " + unsent.text(), 0, {}, /*nest=*/false);
}

void throw_item_error(const ItemError& error) {
  const std::string place = "parallel_map: item " + std::to_string(error.item);
  if (!error.original) {
    throw_text(error.record, place, 0, {error.item}, /*nest=*/false);
  }
  try {
    std::rethrow_exception(error.original);
  } catch (...) {
    throw_text(error.record, place, 0, {error.item}, /*nest=*/true);
  }
}

}  // namespace torchfeed::loader
