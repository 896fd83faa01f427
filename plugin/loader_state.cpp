#include <torchfeed/plugin/loader_state.h>

#include <ATen/ops/empty.h>
#include <torch/types.h>

#include <cstring>

namespace torchfeed {
namespace {

constexpr std::int64_t kFormat = 2;

at::Tensor to_tensor(const std::string& bytes) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) {
    std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  }
  return tensor;
}

std::string to_string(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined() && tensor.scalar_type() == at::kByte, "torchfeed: LoaderState: broken archive");
  const at::Tensor bytes = tensor.contiguous();
  return {static_cast<const char*>(bytes.data_ptr()), static_cast<std::size_t>(bytes.numel())};
}

/// Unsigned 64 bits through an archive's signed ones.
void write(torch::serialize::OutputArchive& archive, const std::string& key, std::uint64_t value) {
  archive.write(key, c10::IValue(static_cast<std::int64_t>(value)));
}

std::uint64_t read(torch::serialize::InputArchive& archive, const std::string& key) {
  c10::IValue value;
  archive.read(key, value);
  return static_cast<std::uint64_t>(value.toInt());
}

}  // namespace

torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive, const LoaderState& state) {
  write(archive, "torchfeed_loader_state", kFormat);
  write(archive, "seed", state.seed);
  write(archive, "epoch", state.epoch);
  write(archive, "batch", state.batch);
  write(archive, "in_epoch", state.in_epoch ? 1 : 0);
  write(archive, "pending", state.pending.size());
  for (std::size_t i = 0; i < state.pending.size(); ++i) {
    const std::string key = "pending_" + std::to_string(i);
    const auto& request = state.pending[i];
    write(archive, key + "_batch", request.batch);
    write(archive, key + "_position", request.position);
    write(archive, key + "_stream_begin", request.stream_begin);
    write(archive, key + "_stream_bytes", request.stream_bytes);
    archive.write(key + "_bytes", to_tensor(request.bytes), /*is_buffer=*/true);
  }
  archive.write("sampler", to_tensor(state.sampler), /*is_buffer=*/true);
  archive.write("positions", c10::IValue(state.positions));
  return archive;
}

torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive, LoaderState& state) {
  c10::IValue format;
  TORCH_CHECK(archive.try_read("torchfeed_loader_state", format) && format.isInt() && format.toInt() == kFormat,
              "torchfeed: LoaderState: the archive holds none, or one of another version (expected version ", kFormat,
              ")");
  LoaderState read_state;
  read_state.seed = read(archive, "seed");
  read_state.epoch = read(archive, "epoch");
  read_state.batch = read(archive, "batch");
  read_state.in_epoch = read(archive, "in_epoch") != 0;
  read_state.pending.resize(read(archive, "pending"));
  at::Tensor bytes;
  for (std::size_t i = 0; i < read_state.pending.size(); ++i) {
    const std::string key = "pending_" + std::to_string(i);
    auto& request = read_state.pending[i];
    request.batch = read(archive, key + "_batch");
    request.position = read(archive, key + "_position");
    request.stream_begin = read(archive, key + "_stream_begin");
    request.stream_bytes = read(archive, key + "_stream_bytes");
    archive.read(key + "_bytes", bytes, /*is_buffer=*/true);
    request.bytes = to_string(bytes);
    TORCH_CHECK(request.stream_begin <= request.bytes.size() &&
                    request.stream_bytes <= request.bytes.size() - request.stream_begin,
                "torchfeed: LoaderState: broken archive");
  }
  archive.read("sampler", bytes, /*is_buffer=*/true);
  read_state.sampler = to_string(bytes);
  c10::IValue positions;
  archive.read("positions", positions);
  read_state.positions = positions.toIntVector();
  state = std::move(read_state);
  return archive;
}

}  // namespace torchfeed
