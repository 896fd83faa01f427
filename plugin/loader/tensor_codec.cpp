#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/lease.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstring>

namespace torchfeed {
namespace {

constexpr std::size_t kMostDimensions = 64;  // as many as ATen's iterators take

struct TensorHeader {
  std::int8_t dtype = -1;  // an at::ScalarType; -1 for an undefined tensor
  bool requires_grad = false;
  std::uint8_t dimensions = 0;
};

void check_can_travel(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.layout() == at::kStrided, "torchfeed: a batch's tensor: expected layout Strided, got ",
              tensor.layout(), "; call to_dense() in the dataset");
  TORCH_CHECK(tensor.device().is_cpu(), "torchfeed: a batch's tensor: expected device cpu, got ", tensor.device(),
              "; move it to the device in the training loop");
  TORCH_CHECK(!tensor.is_quantized(), "torchfeed: a batch's tensor: expected a dtype that is not quantized, got ",
              tensor.scalar_type(), "; call dequantize() or int_repr() in the dataset");
  TORCH_CHECK(tensor.dim() <= static_cast<std::int64_t>(kMostDimensions),
              "torchfeed: a batch's tensor: expected at most ", kMostDimensions, " dimensions, got ", tensor.dim());
}

}  // namespace

BatchWriter::BatchWriter(loader::BatchArena& arena) : arena_(arena) {}

void BatchWriter::bytes(const void* data, std::size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  arena_.stream().insert(arena_.stream().end(), first, first + size);
}

void BatchWriter::tensor(const at::Tensor& tensor) {
  TensorHeader header;
  if (!tensor.defined()) {
    value(header);
    return;
  }
  check_can_travel(tensor);
  header.dtype = static_cast<std::int8_t>(tensor.scalar_type());
  header.requires_grad = tensor.requires_grad();
  header.dimensions = static_cast<std::uint8_t>(tensor.dim());
  value(header);
  bytes(tensor.sizes().data(), tensor.sizes().size() * sizeof(std::int64_t));

  const std::uint64_t size = tensor.nbytes();
  const std::byte* data = nullptr;
  // Conjugate and negative views have their bytes in another form than their values.
  const bool plain = tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
  if (plain && arena_.contains(tensor.data_ptr(), size)) {
    data = static_cast<const std::byte*>(tensor.data_ptr());
  } else {
    std::byte* memory = arena_.allocate(size);
    if (plain && size != 0) {
      std::memcpy(memory, tensor.data_ptr(), size);
    } else if (size != 0) {
      at::from_blob(memory, tensor.sizes(), tensor.options().requires_grad(false)).copy_(tensor.detach());
    }
    data = memory;
  }
  value<std::uint64_t>(static_cast<std::uint64_t>(data - arena_.base()));
}

loader::Record BatchWriter::finish() {
  auto& stream = arena_.stream();
  std::byte* memory = arena_.allocate(stream.size());
  if (!stream.empty()) {
    std::memcpy(memory, stream.data(), stream.size());
  }
  return {arena_.used(), static_cast<std::uint64_t>(memory - arena_.base()), stream.size()};
}

BatchReader::BatchReader(const std::byte* base, const loader::Record& record, loader::Lease* lease)
    : base_(base), position_(base + record.stream_begin), end_(position_ + record.stream_bytes), lease_(lease) {}

void BatchReader::bytes(void* data, std::size_t size) {
  TORCH_CHECK(size <= static_cast<std::size_t>(end_ - position_),
              "torchfeed: BatchCodec: decode reads more than encode wrote: expected at most ", end_ - position_,
              " more bytes, got ", size);
  if (size != 0) {
    std::memcpy(data, position_, size);
  }
  position_ += size;
}

at::Tensor BatchReader::tensor() {
  const auto header = value<TensorHeader>();
  if (header.dtype < 0) {
    return {};
  }
  std::array<std::int64_t, kMostDimensions> sizes;
  bytes(sizes.data(), header.dimensions * sizeof(std::int64_t));
  const at::IntArrayRef shape(sizes.data(), header.dimensions);
  const auto* data = base_ + value<std::uint64_t>();
  const auto options = at::TensorOptions(static_cast<at::ScalarType>(header.dtype));

  at::Tensor tensor;
  if (lease_ != nullptr) {
    lease_->retain();
    tensor = at::for_blob(const_cast<std::byte*>(data), shape)
                 .context(lease_, [](void* lease) { static_cast<loader::Lease*>(lease)->release(); })
                 .options(options)
                 .make_tensor();
  } else {
    tensor = at::empty(shape, options);
    if (tensor.nbytes() != 0) {
      std::memcpy(tensor.data_ptr(), data, tensor.nbytes());
    }
  }
  if (header.requires_grad) {
    tensor.requires_grad_(true);
  }
  return tensor;
}

}  // namespace torchfeed
