#pragma once

#include <torch/serialize/archive.h>

#include <cstdint>
#include <string>
#include <vector>

namespace torchfeed {

/// Where a DataLoader is in its epoch: enough to go on with the exact next batch, in another process, with another
/// number of workers. From DataLoader::state(), for DataLoader::load_state(); goes through torch::save and torch::load.
struct LoaderState {
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;  ///< epochs begun, so the first is 1; 0 before it
  std::uint64_t batch = 0;  ///< batches of this epoch that were asked for
  bool in_epoch = false;    ///< whether the epoch has batches left (or may have)
  /// A batch that was asked for and not handed out, with its request as BatchCodec wrote it.
  struct Request {
    std::uint64_t batch = 0;
    std::uint64_t position = 0;  ///< of a stream: samples that the same worker was asked for before
    std::uint64_t stream_begin = 0;
    std::uint64_t stream_bytes = 0;
    std::string bytes;
  };
  std::vector<Request> pending;
  std::string sampler;  ///< the sampler's own archive
  /// Of a stream: samples that each worker was asked for in this epoch, or -1 if its part of the stream has ended.
  std::vector<std::int64_t> positions;
};

torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive, const LoaderState& state);
/// Throws c10::Error if the archive holds no LoaderState.
torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive, LoaderState& state);

}  // namespace torchfeed
