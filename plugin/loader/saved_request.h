#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader_state.h>

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace torchfeed::loader {

/// A request that lives in this process's memory, as bytes for a LoaderState. Throws c10::Error if its type has no
/// BatchCodec.
template <typename Request>
LoaderState::Request save_request(const Request& request, std::uint64_t batch, std::uint64_t position) {
  if constexpr (Sendable<Request>) {
    HeapMemory memory;
    BatchArena arena(memory, 0);
    BatchWriter writer(arena);
    BatchCodec<Request>::encode(writer, request);
    const Record record = writer.finish();
    return {batch, position, record.stream_begin, record.stream_bytes, std::move(memory.bytes())};
  } else {
    TORCH_CHECK(false,
                "torchfeed: state(): the sampler's requests cannot be saved: specialise torchfeed::BatchCodec<T> "
                "for their type");
  }
}

/// What save_request() saved, also in a worker process's slot.
template <typename Request>
Request load_request(const LoaderState::Request& saved) {
  if constexpr (Sendable<Request>) {
    BatchReader reader(reinterpret_cast<const std::byte*>(saved.bytes.data()),
                       {saved.bytes.size(), saved.stream_begin, saved.stream_bytes}, nullptr);
    return BatchCodec<Request>::decode(reader);
  } else {
    TORCH_CHECK(false,
                "torchfeed: load_state(): the sampler's requests cannot be read: specialise "
                "torchfeed::BatchCodec<T> for their type");
  }
}

}  // namespace torchfeed::loader
