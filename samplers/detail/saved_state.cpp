#include <torchfeed/samplers/detail/saved_state.h>

#include <ATen/core/ivalue.h>
#include <c10/util/Exception.h>

#include <utility>

namespace torchfeed::samplers::detail {
namespace {

constexpr const char* kKindKey = "torchfeed_sampler";

}  // namespace

StateWriter::StateWriter(torch::serialize::OutputArchive& archive, const std::string& kind) : archive_(archive) {
  archive_.write(kKindKey, c10::IValue(kind));
}

// Unsigned 64 bits through an archive's signed ones.
void StateWriter::word(const std::string& key, std::uint64_t value) {
  archive_.write(key, c10::IValue(static_cast<std::int64_t>(value)));
}

StateReader::StateReader(torch::serialize::InputArchive& archive, std::string kind)
    : archive_(archive), kind_(std::move(kind)) {
  c10::IValue value;
  TORCH_CHECK(archive_.try_read(kKindKey, value) && value.isString(), kind_, ": expected the archive of a ", kind_,
              ", got one without '", kKindKey, "'");
  TORCH_CHECK(value.toStringRef() == kind_, kind_, ": expected the archive of a ", kind_, ", got that of a ",
              value.toStringRef());
}

std::uint64_t StateReader::word(const std::string& key) const {
  c10::IValue value;
  TORCH_CHECK(archive_.try_read(key, value) && value.isInt(), kind_, ": expected an integer '", key,
              "' in the archive, got none");
  return static_cast<std::uint64_t>(value.toInt());
}

void StateReader::expect(const std::string& key, std::uint64_t own, const char* what) const {
  const std::uint64_t saved = word(key);
  TORCH_CHECK(saved == own, kind_, ": expected the state of one with ", what, " ", own, ", got one with ", saved);
}

}  // namespace torchfeed::samplers::detail
