#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace torchfeed::samplers {

/// A pseudo-random permutation of [0, size), chosen by a key, in O(1) memory and O(1) time an element.
///
/// A generalised Feistel network (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): an index is two
/// digits (left, right) in the mixed radix (left_radix, right_radix) with radices near sqrt(size), and each round adds
/// a keyed hash of one digit to the other. Every round can be undone, so that the whole is a bijection of [0,
/// left_radix * right_radix). That domain exceeds `size` by less than left_radix; an image that falls into the excess
/// is mapped again until it is below `size` ("cycle walking"), which for an index drawn at random happens with a
/// probability of about 1 / sqrt(size) at most. Fewer than 64 indices are shuffled at once, by Fisher and Yates: their
/// digits have too few possible hashes for all orders to come up equally often.
///
/// Integer arithmetic only: the permutation of a (size, key) is the same on every machine and in every version. Not
/// cryptography: it is meant for shuffling. Immutable; may be read by many threads.
class KeyedPermutation {
 public:
  static constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 63;

  /// The permutation of [0, size) that belongs to `key`; `size` is at most kMaxSize.
  KeyedPermutation(std::uint64_t size, std::uint64_t key) noexcept;

  std::uint64_t size() const noexcept { return size_; }

  /// The image of `index`, which must be below size().
  std::uint64_t operator()(std::uint64_t index) const noexcept;

  /// The images of first, first + stride, first + 2 * stride and so on, all of which must be below size(). Several
  /// times as fast as one by one: rounds of several indices overlap in the processor, and none of them divides.
  void map(std::uint64_t first, std::uint64_t stride, std::span<std::size_t> images) const noexcept;

  /// The index whose image is `image`, which must be below size().
  std::uint64_t inverse(std::uint64_t image) const noexcept;

 private:
  struct Digits {
    std::uint64_t left;
    std::uint64_t right;
  };

  Digits digits(std::uint64_t index) const noexcept { return {index / right_radix_, index % right_radix_}; }
  std::uint64_t index_of(const Digits& digits) const noexcept { return digits.left * right_radix_ + digits.right; }
  template <std::size_t Lanes>
  void encrypt(std::array<Digits, Lanes>& lanes) const noexcept;
  Digits decrypt(Digits digits) const noexcept;

  bool is_stored() const noexcept { return size_ < kStoredSizes; }
  void shuffle_stored(std::uint64_t key) noexcept;

  static constexpr std::uint64_t kStoredSizes = 64;
  static constexpr std::size_t kRounds = 8;

  std::uint64_t size_;
  std::uint64_t left_radix_ = 1;
  std::uint64_t right_radix_ = 1;
  std::array<std::uint64_t, kRounds> round_keys_{};
  std::array<std::uint8_t, kStoredSizes> stored_{};  // images, if there are few
};

}  // namespace torchfeed::samplers
