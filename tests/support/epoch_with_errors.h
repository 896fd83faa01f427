#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace torchfeed::testing {

/// The records of an epoch in which batches fail, and the texts of their errors.
template <typename Error, typename Loader>
std::pair<std::vector<std::int64_t>, std::vector<std::string>> epoch_with_errors(Loader& loader) {
  std::vector<std::int64_t> records;
  std::vector<std::string> texts;
  auto iterator = loader.begin();
  bool fetched = false;  // an iterator whose first batch failed fetches the next one by itself
  for (;;) {
    try {
      if (fetched) {
        ++iterator;
      }
      if (iterator == loader.end()) {
        return {records, texts};
      }
      fetched = true;
      const auto* data = iterator->template data_ptr<std::int64_t>();
      records.insert(records.end(), data, data + iterator->numel());
    } catch (const Error& error) {
      texts.emplace_back(error.what());
    }
  }
}

}  // namespace torchfeed::testing
