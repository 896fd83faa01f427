#pragma once

#include <ATen/core/Tensor.h>
#include <torch/data/example.h>
#include <torch/data/samplers/base.h>
#include <torch/data/samplers/stream.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace c10 {
struct IValue;
}

namespace torchfeed {

namespace loader {
class BatchArena;
class Lease;
struct Record;
}  // namespace loader

/// Writes one batch (or request) into its slot. Handed to BatchCodec<T>::encode; not kept beyond the call.
/// Used by one thread at a time.
class BatchWriter {
 public:
  explicit BatchWriter(loader::BatchArena& arena);

  /// Writes `size` bytes as they are.
  void bytes(const void* data, std::size_t size);

  /// Writes a trivially copyable value as its bytes. Pointers make no sense on the other side.
  template <typename T>
  void value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    bytes(&value, sizeof(T));
  }

  /// Writes a dense CPU tensor, or an undefined one: its dtype, sizes, requires_grad and elements. If it is
  /// contiguous and lives in the slot (see empty_batch) its elements stay where they are; else they are copied
  /// there, compact. Throws c10::Error for other layouts and devices.
  void tensor(const at::Tensor& tensor);

  /// Closes the record: to be called once, after all else.
  loader::Record finish();

 private:
  loader::BatchArena& arena_;
};

/// Reads what BatchWriter wrote, in the same order. Handed to BatchCodec<T>::decode; not kept beyond the call.
class BatchReader {
 public:
  /// Tensors are views of the slot that share `lease`, or copies of their own if there is none.
  BatchReader(const std::byte* base, const loader::Record& record, loader::Lease* lease);

  void bytes(void* data, std::size_t size);

  template <typename T>
  T value() {
    static_assert(std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T>);
    T value;
    bytes(&value, sizeof(T));
    return value;
  }

  at::Tensor tensor();

 private:
  const std::byte* base_;
  const std::byte* position_;
  const std::byte* end_;
  loader::Lease* lease_;
};

namespace detail {
template <typename>
inline constexpr bool kNoCodec = false;
}  // namespace detail

/// How a type travels between trainer and worker processes, as a request (what a sampler gives) or as a batch (what a
/// dataset gives). Specialise it for a type of your own:
///
///     template <>
///     struct torchfeed::BatchCodec<MyBatch> {
///       static void encode(BatchWriter& writer, const MyBatch& batch) {
///         writer.tensor(batch.prices);
///         writer.value(batch.count);
///       }
///       static MyBatch decode(BatchReader& reader) {
///         MyBatch batch;
///         batch.prices = reader.tensor();
///         batch.count = reader.value<int>();
///         return batch;
///       }
///     };
///
/// `encode` runs in the process that made the value, `decode` in the other; both in one thread.
/// A type without a codec does not compile where it is sent. In a loader's batch it compiles, as it would with
/// torch::data: threads and the trainer itself need no codec, and worker processes are refused when the loader is made.
template <typename T, typename Enable = void>
struct BatchCodec {
  using Missing = void;
  static void encode(BatchWriter& /*writer*/, const T& /*value*/) {
    static_assert(detail::kNoCodec<T>,
                  "torchfeed cannot send this type between processes: specialise torchfeed::BatchCodec<T> with "
                  "static void encode(BatchWriter&, const T&) and static T decode(BatchReader&)");
  }
  static T decode(BatchReader& /*reader*/) {
    static_assert(detail::kNoCodec<T>,
                  "torchfeed cannot send this type between processes: specialise torchfeed::BatchCodec<T> with "
                  "static void encode(BatchWriter&, const T&) and static T decode(BatchReader&)");
  }
};

/// Types that have a codec, as all that they are made of does.
template <typename T>
concept Sendable = std::is_object_v<T> && !std::is_array_v<T> && !std::is_abstract_v<T> && !requires {
  typename BatchCodec<T>::Missing;
};

/// Numbers and enumerations.
template <typename T>
struct BatchCodec<T, std::enable_if_t<std::is_arithmetic_v<T> || std::is_enum_v<T>>> {
  static void encode(BatchWriter& writer, const T& value) { writer.value(value); }
  static T decode(BatchReader& reader) { return reader.value<T>(); }
};

/// Tensors: dense, on the CPU, any dtype and size.
template <>
struct BatchCodec<at::Tensor> {
  static void encode(BatchWriter& writer, const at::Tensor& tensor) { writer.tensor(tensor); }
  static at::Tensor decode(BatchReader& reader) { return reader.tensor(); }
};

/// Examples of any two types that travel themselves.
template <Sendable Data, Sendable Target>
struct BatchCodec<torch::data::Example<Data, Target>> {
  static void encode(BatchWriter& writer, const torch::data::Example<Data, Target>& example) {
    BatchCodec<Data>::encode(writer, example.data);
    BatchCodec<Target>::encode(writer, example.target);
  }
  static torch::data::Example<Data, Target> decode(BatchReader& reader) {
    auto data = BatchCodec<Data>::decode(reader);
    auto target = BatchCodec<Target>::decode(reader);
    return {std::move(data), std::move(target)};
  }
};

/// Vectors; of numbers in one piece, as the samplers' indices are.
template <Sendable T>
struct BatchCodec<std::vector<T>> {
  static constexpr bool kInOnePiece = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

  static void encode(BatchWriter& writer, const std::vector<T>& values) {
    writer.value<std::uint64_t>(values.size());
    if constexpr (kInOnePiece) {
      writer.bytes(values.data(), values.size() * sizeof(T));
    } else {
      for (const auto& value : values) {
        BatchCodec<T>::encode(writer, value);
      }
    }
  }

  static std::vector<T> decode(BatchReader& reader) {
    const auto size = static_cast<std::size_t>(reader.value<std::uint64_t>());
    std::vector<T> values;
    if constexpr (kInOnePiece) {
      values.resize(size);
      reader.bytes(values.data(), size * sizeof(T));
    } else {
      values.reserve(size);
      for (std::size_t i = 0; i < size; ++i) {
        values.push_back(BatchCodec<T>::decode(reader));
      }
    }
    return values;
  }
};

/// Examples without a target.
template <Sendable Data>
struct BatchCodec<torch::data::Example<Data, torch::data::example::NoTarget>> {
  using Example = torch::data::Example<Data, torch::data::example::NoTarget>;
  static void encode(BatchWriter& writer, const Example& example) { BatchCodec<Data>::encode(writer, example.data); }
  static Example decode(BatchReader& reader) { return BatchCodec<Data>::decode(reader); }
};

template <>
struct BatchCodec<std::string> {
  static void encode(BatchWriter& writer, const std::string& text) {
    writer.value<std::uint64_t>(text.size());
    writer.bytes(text.data(), text.size());
  }
  static std::string decode(BatchReader& reader) {
    std::string text(static_cast<std::size_t>(reader.value<std::uint64_t>()), '\0');
    reader.bytes(text.data(), text.size());
    return text;
  }
};

/// Arrays, pairs and tuples: each element in turn.
template <Sendable T, std::size_t kSize>
struct BatchCodec<std::array<T, kSize>> {
  static void encode(BatchWriter& writer, const std::array<T, kSize>& values) {
    for (const auto& value : values) {
      BatchCodec<T>::encode(writer, value);
    }
  }
  static std::array<T, kSize> decode(BatchReader& reader) { return decode(reader, std::make_index_sequence<kSize>()); }

 private:
  // Braces evaluate from left to right, and need no default constructor.
  template <std::size_t... kIndex>
  static std::array<T, kSize> decode(BatchReader& reader, std::index_sequence<kIndex...> /*indices*/) {
    return {{(static_cast<void>(kIndex), BatchCodec<T>::decode(reader))...}};
  }
};

template <Sendable First, Sendable Second>
struct BatchCodec<std::pair<First, Second>> {
  static void encode(BatchWriter& writer, const std::pair<First, Second>& pair) {
    BatchCodec<First>::encode(writer, pair.first);
    BatchCodec<Second>::encode(writer, pair.second);
  }
  static std::pair<First, Second> decode(BatchReader& reader) {
    return {BatchCodec<First>::decode(reader), BatchCodec<Second>::decode(reader)};
  }
};

template <Sendable... T>
struct BatchCodec<std::tuple<T...>> {
  static void encode(BatchWriter& writer, const std::tuple<T...>& tuple) {
    std::apply([&](const T&... value) { (BatchCodec<T>::encode(writer, value), ...); }, tuple);
  }
  static std::tuple<T...> decode(BatchReader& reader) { return std::tuple<T...>{BatchCodec<T>::decode(reader)...}; }
};

namespace detail {

/// torch's optional: std's, or one of its own before LibTorch 2.
template <typename T>
using TorchOptional = decltype(std::declval<torch::data::samplers::Sampler<T>&>().next(1));

template <typename T>
concept Optional = requires {
  typename T::value_type;
}
&&(std::same_as<T, std::optional<typename T::value_type>> || std::same_as<T, TorchOptional<typename T::value_type>>);

}  // namespace detail

template <detail::Optional T>
requires Sendable<typename T::value_type>
struct BatchCodec<T> {
  static void encode(BatchWriter& writer, const T& value) {
    writer.value(value.has_value());
    if (value) {
      BatchCodec<typename T::value_type>::encode(writer, *value);
    }
  }
  static T decode(BatchReader& reader) {
    return reader.value<bool>() ? T(BatchCodec<typename T::value_type>::decode(reader)) : T();
  }
};

/// Owning pointers: what they point to, or null.
template <Sendable T>
struct BatchCodec<std::unique_ptr<T>> {
  static void encode(BatchWriter& writer, const std::unique_ptr<T>& value) {
    writer.value(value != nullptr);
    if (value) {
      BatchCodec<T>::encode(writer, *value);
    }
  }
  static std::unique_ptr<T> decode(BatchReader& reader) {
    return reader.value<bool>() ? std::make_unique<T>(BatchCodec<T>::decode(reader)) : nullptr;
  }
};

/// Variants: which alternative, and its value.
template <Sendable... T>
struct BatchCodec<std::variant<T...>> {
  using Variant = std::variant<T...>;

  static void encode(BatchWriter& writer, const Variant& value) {
    writer.value<std::uint64_t>(value.index());
    std::visit(
        [&](const auto& alternative) { BatchCodec<std::decay_t<decltype(alternative)>>::encode(writer, alternative); },
        value);
  }
  static Variant decode(BatchReader& reader) {
    return decode(reader, static_cast<std::size_t>(reader.value<std::uint64_t>()),
                  std::make_index_sequence<sizeof...(T)>());
  }

 private:
  template <std::size_t... kIndex>
  static Variant decode(BatchReader& reader, std::size_t which, std::index_sequence<kIndex...> /*indices*/) {
    std::optional<Variant> value;
    static_cast<void>(((which == kIndex && (value.emplace(decode_alternative<kIndex>(reader)), true)) || ...));
    return std::move(value).value();
  }
  template <std::size_t kIndex>
  static Variant decode_alternative(BatchReader& reader) {
    return Variant(std::in_place_index<kIndex>,
                   BatchCodec<std::variant_alternative_t<kIndex, Variant>>::decode(reader));
  }
};

namespace detail {

/// Maps, ordered or not: the number of elements, then keys and values.
template <typename Map>
struct MapCodec {
  static void encode(BatchWriter& writer, const Map& map) {
    writer.value<std::uint64_t>(map.size());
    for (const auto& [key, value] : map) {
      BatchCodec<typename Map::key_type>::encode(writer, key);
      BatchCodec<typename Map::mapped_type>::encode(writer, value);
    }
  }
  static Map decode(BatchReader& reader) {
    Map map;
    for (auto left = reader.value<std::uint64_t>(); left > 0; --left) {
      auto key = BatchCodec<typename Map::key_type>::decode(reader);
      map.emplace(std::move(key), BatchCodec<typename Map::mapped_type>::decode(reader));
    }
    return map;
  }
};

}  // namespace detail

template <Sendable Key, Sendable Value, typename Compare>
struct BatchCodec<std::map<Key, Value, Compare>> : detail::MapCodec<std::map<Key, Value, Compare>> {};

template <Sendable Key, Sendable Value, typename Hash, typename Equal>
struct BatchCodec<std::unordered_map<Key, Value, Hash, Equal>>
    : detail::MapCodec<std::unordered_map<Key, Value, Hash, Equal>> {};

/// TorchScript's values: none, numbers, strings, tensors, lists, tuples and dictionaries of them, written by LibTorch's
/// own pickler, but for the tensors, which go as all tensors do. Throws c10::Error for objects of a TorchScript class.
template <>
struct BatchCodec<c10::IValue> {
  static void encode(BatchWriter& writer, const c10::IValue& value);
  static c10::IValue decode(BatchReader& reader);
};

/// What a StreamSampler asks for.
template <>
struct BatchCodec<torch::data::samplers::BatchSize> {
  static void encode(BatchWriter& writer, const torch::data::samplers::BatchSize& request) {
    writer.value<std::uint64_t>(request.size());
  }
  static torch::data::samplers::BatchSize decode(BatchReader& reader) {
    return torch::data::samplers::BatchSize(static_cast<std::size_t>(reader.value<std::uint64_t>()));
  }
};

}  // namespace torchfeed
