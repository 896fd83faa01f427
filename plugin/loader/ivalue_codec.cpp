#include <torchfeed/plugin/batch_codec.h>

#include <torch/csrc/jit/serialization/pickle.h>

#include <ATen/core/ivalue.h>
#include <c10/util/Exception.h>

#include <string>
#include <vector>

namespace torchfeed {

void BatchCodec<c10::IValue>::encode(BatchWriter& writer, const c10::IValue& value) {
  value.visit([](const c10::IValue& part) {
    TORCH_CHECK(!part.isObject() && !part.isCapsule() && !part.isPyObject() && !part.isFuture(),
                "torchfeed: a batch's IValue: expected numbers, strings, tensors, lists, tuples and dictionaries, got ",
                part.tagKind());
    return false;
  });
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
