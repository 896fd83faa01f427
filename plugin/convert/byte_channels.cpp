#include <torchfeed/plugin/convert/byte_channels.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace torchfeed::convert {
namespace {

/// The dimension of channels that lie beside each other; -1 if there is none. Pixels are the last dimension.
int interleaved(const Block& block) {
  const auto last = static_cast<int>(block.sizes.size()) - 1;
  for (int i = 0; i < last; ++i) {
    const auto dimension = static_cast<std::size_t>(i);
    const std::int64_t channels = block.sizes[dimension];
    const bool others = block.channel >= 0 && block.channel != i;
    if (!others && block.from_strides[dimension] == 1 && channels >= 2 && channels <= 4 &&
        block.from_strides.back() == channels && block.to_strides.back() == 1) {
      return i;
    }
  }
  return -1;
}

#if defined(__x86_64__)
constexpr std::size_t kMostChannels = 4;

/// What the channels of a row of pixels become.
struct Row {
  std::int64_t pixels;
  std::int64_t plane;  ///< from one channel of the result to the next
  const float* scale;
  const float* shift;
};

/// For each channel and each of the vectors that 16 pixels take: where each byte of the channel is in the vector, or -1
/// for zero.
template <std::size_t kChannels>
constexpr auto make_masks() {
  std::array<std::array<std::array<std::int8_t, 16>, kChannels>, kChannels> masks{};
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    for (std::size_t vector = 0; vector < kChannels; ++vector) {
      for (std::size_t pixel = 0; pixel < 16; ++pixel) {
        const std::size_t at = pixel * kChannels + channel;
        masks[channel][vector][pixel] = at / 16 == vector ? static_cast<std::int8_t>(at % 16) : std::int8_t{-1};
      }
    }
  }
  return masks;
}
template <std::size_t kChannels>
alignas(16) constexpr auto kMasks = make_masks<kChannels>();

template <typename Byte>
[[gnu::target("avx2,fma")]] inline __m256 to_float(__m128i bytes) {
  if constexpr (std::is_signed_v<Byte>) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  } else {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  }
}

template <typename Byte, std::size_t kChannels>
[[gnu::target("avx2,fma")]] void split_row(const Byte* from, const Row& row, float* to) {
  constexpr std::int64_t kPixels = 16;
  std::int64_t i = 0;
  for (; i + kPixels <= row.pixels; i += kPixels) {
    const auto* in = reinterpret_cast<const __m128i*>(from + i * static_cast<std::int64_t>(kChannels));
    __m128i vectors[kChannels];
    for (std::size_t v = 0; v < kChannels; ++v) vectors[v] = _mm_loadu_si128(in + v);
    for (std::size_t c = 0; c < kChannels; ++c) {
      __m128i bytes = _mm_setzero_si128();
      for (std::size_t v = 0; v < kChannels; ++v) {
        const __m128i mask = _mm_load_si128(reinterpret_cast<const __m128i*>(kMasks<kChannels>[c][v].data()));
        bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(vectors[v], mask));
      }
      const __m256 scale = _mm256_set1_ps(row.scale[c]);
      const __m256 shift = _mm256_set1_ps(row.shift[c]);
      float* out = to + static_cast<std::int64_t>(c) * row.plane + i;
      _mm256_storeu_ps(out, _mm256_fmadd_ps(to_float<Byte>(bytes), scale, shift));
      _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(to_float<Byte>(_mm_srli_si128(bytes, 8)), scale, shift));
    }
  }
  for (; i < row.pixels; ++i) {
    for (std::size_t c = 0; c < kChannels; ++c) {
      const auto value =
          static_cast<float>(from[i * static_cast<std::int64_t>(kChannels) + static_cast<std::int64_t>(c)]);
      to[static_cast<std::int64_t>(c) * row.plane + i] = __builtin_fmaf(value, row.scale[c], row.shift[c]);
    }
  }
}

template <typename Byte>
void split_row(std::int64_t channels, const Byte* from, const Row& row, float* to) {
  switch (channels) {
    case 2:
      return split_row<Byte, 2>(from, row, to);
    case 3:
      return split_row<Byte, 3>(from, row, to);
    default:
      return split_row<Byte, 4>(from, row, to);
  }
}

/// All rows: every dimension but those of the channels and the pixels in turn.
template <typename Byte>
void split_rows(const Block& block, std::size_t channel, std::size_t dimension, const Row& row, const Byte* from,
                float* to) {
  if (dimension + 1 == block.sizes.size()) {
    split_row(block.sizes[channel], from, row, to);
    return;
  }
  const std::int64_t size = dimension == channel ? 1 : block.sizes[dimension];
  for (std::int64_t i = 0; i < size; ++i) {
    split_rows(block, channel, dimension + 1, row, from + i * block.from_strides[dimension],
               to + i * block.to_strides[dimension]);
  }
}
#endif

}  // namespace

bool can_split_byte_channels([[maybe_unused]] const Block& block) {
#if defined(__x86_64__)
  const bool bytes = block.from == at::kByte || block.from == at::kChar;
  return bytes && block.to == at::kFloat && interleaved(block) >= 0 && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

void split_byte_channels([[maybe_unused]] const Block& block, [[maybe_unused]] const std::vector<float>& scale,
                         [[maybe_unused]] const std::vector<float>& shift, [[maybe_unused]] const void* from,
                         [[maybe_unused]] float* to) {
#if defined(__x86_64__)
  const auto channel = static_cast<std::size_t>(interleaved(block));
  std::array<float, kMostChannels> scales{};
  std::array<float, kMostChannels> shifts{};
  for (std::size_t c = 0; c < static_cast<std::size_t>(block.sizes[channel]); ++c) {
    scales[c] = scale[scale.size() == 1 ? 0 : c];
    shifts[c] = shift[shift.size() == 1 ? 0 : c];
  }
  const Row row{block.sizes.back(), block.to_strides[channel], scales.data(), shifts.data()};
  if (block.from == at::kByte) {
    split_rows(block, channel, 0, row, static_cast<const std::uint8_t*>(from), to);
  } else {
    split_rows(block, channel, 0, row, static_cast<const std::int8_t*>(from), to);
  }
#endif
}

}  // namespace torchfeed::convert
