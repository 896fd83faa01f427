#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace torchfeed::samplers {

/// A pseudo-random permutation of [0, size), chosen by a key, in O(1) memory and O(1) time an element.
///
/// A generalised Feistel network (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): an index is two
/// digits (left, right) in the mixed radix (left_radix, right_radix) with radices near sqrt(size), and each round adds
/// a keyed hash of one digit to the other. Every round can be undone, so that the whole is a bijection of [0,
/// left_radix * right_radix). That domain exceeds `size` by less than left_radix; an image that falls into the excess
/// is mapped again until it is below `size` ("cycle walking"), which for an index drawn at random happens with a
/// probability of about 1 / sqrt(size) at most. For a few indices the network has more rounds, as their few possible
/// hashes mix less, and all orders come up equally often.
///
/// Integer arithmetic only: the permutation of a (size, key) is the same on every machine and in every version. Not
/// cryptography: it is meant for shuffling. Immutable; may be read by many threads.
class KeyedPermutation {
 public:
  /// The permutation of [0, size) that belongs to `key`; `size` is at most 2^63.
  KeyedPermutation(uint64_t size, uint64_t key) noexcept : size_(size) {
    // An even radix: adding 1 to a digit in [0, n) is then an odd permutation. Of odd ones alone only even ones are
    // made.
    left_radix_ = (ceil_sqrt(size) + 1) / 2 * 2;
    right_radix_ = left_radix_ == 0 ? 0 : size / left_radix_ + (size % left_radix_ != 0);
    rounds_ = size < kSmallSize ? kMaxRounds : kRounds;
    for (auto& round_key : round_keys_) {
      key += 0x9e3779b97f4a7c15U;  // SplitMix64: Weyl sequence, then its finaliser
      round_key = mix(key);
    }
  }

  uint64_t size() const noexcept { return size_; }

  /// The image of `index`, which must be below size().
  uint64_t operator()(uint64_t index) const noexcept {
    do {
      index = encrypt(index);
    } while (index >= size_);
    return index;
  }

  /// SplitMix64's finaliser: a bijection of 64-bit words in which each bit depends on all.
  static constexpr uint64_t mix(uint64_t word) noexcept {
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9U;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebU;
    return word ^ (word >> 31);
  }

 private:
  // Both radices are at most 2^32, so that (32-bit hash) * radix and left * right_radix + right fit into 64 bits.
  uint64_t encrypt(uint64_t index) const noexcept {
    uint64_t left = index / right_radix_;
    uint64_t right = index % right_radix_;
    for (size_t round = 0; round < rounds_; round += 2) {
      left = add_hash(left, right, round_keys_[round], left_radix_);
      right = add_hash(right, left, round_keys_[round + 1], right_radix_);
    }
    return left * right_radix_ + right;
  }

  static uint64_t add_hash(uint64_t digit, uint64_t other, uint64_t round_key, uint64_t radix) noexcept {
    uint64_t hash = (other ^ round_key) * 0xbf58476d1ce4e5b9U;
    hash = (hash ^ (hash >> 32)) * 0x94d049bb133111ebU;
    const uint64_t sum = digit + (((hash >> 32) * radix) >> 32);  // the hash scaled to [0, radix)
    return sum >= radix ? sum - radix : sum;
  }

  /// The least integer whose square is at least `value`, by integers alone: floating point rounds above 2^53.
  static uint64_t ceil_sqrt(uint64_t value) noexcept {
    uint64_t root = 0;
    for (uint64_t bit = uint64_t{1} << 31; bit != 0; bit >>= 1) {
      const uint64_t candidate = root | bit;
      if (candidate * candidate <= value) root = candidate;
    }
    return root * root == value ? root : root + 1;
  }

  static constexpr size_t kSmallSize = 64;
  static constexpr size_t kRounds = 8;
  static constexpr size_t kMaxRounds = 24;

  uint64_t size_;
  uint64_t left_radix_;
  uint64_t right_radix_;
  size_t rounds_;
  std::array<uint64_t, kMaxRounds> round_keys_;
};

}  // namespace torchfeed::samplers
