#pragma once

#include <torch/serialize/archive.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace torchfeed::samplers::detail {

/// Writes a sampler's state into an archive: its kind, so that no other kind takes it for its own, and 64-bit words.
class StateWriter {
 public:
  /// `kind`: the sampler's class.
  StateWriter(torch::serialize::OutputArchive& archive, const std::string& kind);

  void word(const std::string& key, std::uint64_t value);

 private:
  torch::serialize::OutputArchive& archive_;
};

/// Reads what StateWriter wrote.
class StateReader {
 public:
  /// Throws c10::Error if the archive is none of such a sampler.
  StateReader(torch::serialize::InputArchive& archive, std::string kind);

  /// Throws c10::Error if there is none.
  std::uint64_t word(const std::string& key) const;

  /// Throws c10::Error if the word is not what this sampler has: `what` names it.
  void expect(const std::string& key, std::uint64_t own, const char* what) const;

  const std::string& kind() const noexcept { return kind_; }

 private:
  torch::serialize::InputArchive& archive_;
  std::string kind_;
};

}  // namespace torchfeed::samplers::detail
