#pragma once

#include <cstdint>

namespace torchfeed::samplers::detail {

/// SplitMix64's increment (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
inline constexpr std::uint64_t kGoldenGamma = 0x9e3779b97f4a7c15U;

/// SplitMix64's finaliser: a bijection of 64-bit words in which each bit depends on all.
constexpr std::uint64_t mix(std::uint64_t word) noexcept {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9U;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebU;
  return word ^ (word >> 31);
}

/// Word `counter` of the stream that belongs to `key`: SplitMix64's own sequence, of which any word is there at once.
constexpr std::uint64_t random_word(std::uint64_t key, std::uint64_t counter) noexcept {
  return mix(key + (counter + 1) * kGoldenGamma);
}

/// The key of all that is random in one epoch. Mixed twice, so that neighbouring seeds do not share orders in shifted
/// epochs.
constexpr std::uint64_t epoch_key(std::uint64_t seed, std::uint64_t epoch) noexcept {
  return mix(mix(seed + kGoldenGamma) ^ epoch);
}

/// A hash of a sequence of words, one more at a time.
constexpr std::uint64_t fold(std::uint64_t hash, std::uint64_t word) noexcept {
  return mix(hash + kGoldenGamma) ^ mix(word + 2 * kGoldenGamma + hash);
}

/// A seed from torch's default CPU generator, so that torch::manual_seed fixes it.
std::uint64_t draw_seed();

}  // namespace torchfeed::samplers::detail
