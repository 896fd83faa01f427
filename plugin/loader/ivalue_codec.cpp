#include <torchfeed/plugin/batch_codec.h>

#include <torch/csrc/jit/serialization/pickle.h>

#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace torchfeed {

void BatchCodec<c10::IValue>::encode(BatchWriter& writer, const c10::IValue& value) {
  std::vector<at::Tensor> tensors;
  const std::vector<char> bytes = torch::jit::pickle(value, &tensors);
  BatchCodec<std::vector<char>>::encode(writer, bytes);
  BatchCodec<std::vector<at::Tensor>>::encode(writer, tensors);
}

c10::IValue BatchCodec<c10::IValue>::decode(BatchReader& reader) {
  const auto bytes = BatchCodec<std::vector<char>>::decode(reader);
  const auto tensors = BatchCodec<std::vector<at::Tensor>>::decode(reader);
  return torch::jit::unpickle(bytes.data(), bytes.size(), nullptr, tensors);
}

}  // namespace torchfeed
