#include <torchfeed/samplers/detail/random_words.h>
#include <torchfeed/samplers/keyed_permutation.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace torchfeed::samplers {
namespace {

/// Indices that are mapped together. A round waits for three multiplications, one after the other; with eight indices
/// at a time the multiplier hardly waits any more.
constexpr std::size_t kLanes = 8;

/// A keyed hash of a digit, scaled to [0, radix). Both radices are at most 2^32, so that (32-bit hash) * radix and
/// left * right_radix + right fit into 64 bits.
std::uint64_t hash(std::uint64_t digit, std::uint64_t round_key, std::uint64_t radix) noexcept {
  std::uint64_t hash = (digit ^ round_key) * 0xbf58476d1ce4e5b9U;
  hash = (hash ^ (hash >> 32)) * 0x94d049bb133111ebU;
  return ((hash >> 32) * radix) >> 32;
}

std::uint64_t add(std::uint64_t digit, std::uint64_t other, std::uint64_t radix) noexcept {
  const std::uint64_t sum = digit + other;
  return sum >= radix ? sum - radix : sum;
}

std::uint64_t subtract(std::uint64_t digit, std::uint64_t other, std::uint64_t radix) noexcept {
  return digit >= other ? digit - other : digit + radix - other;
}

/// The least integer whose square is at least `value`, by integers alone: floating point rounds above 2^53.
std::uint64_t ceil_sqrt(std::uint64_t value) noexcept {
  std::uint64_t root = 0;
  for (std::uint64_t bit = std::uint64_t{1} << 31; bit != 0; bit >>= 1) {
    const std::uint64_t candidate = root | bit;
    if (candidate * candidate <= value) {
      root = candidate;
    }
  }
  return root * root == value ? root : root + 1;
}

}  // namespace

KeyedPermutation::KeyedPermutation(std::uint64_t size, std::uint64_t key) noexcept : size_(size) {
  if (is_stored()) {
    shuffle_stored(key);
    return;
  }
  // An even radix: adding 1 to a digit in [0, n) is then an odd permutation. Of odd ones alone only even ones are made.
  left_radix_ = (ceil_sqrt(size) + 1) / 2 * 2;
  right_radix_ = size / left_radix_ + (size % left_radix_ != 0);
  for (std::size_t round = 0; round < kRounds; ++round) {
    round_keys_[round] = detail::random_word(key, round);
  }
}

void KeyedPermutation::shuffle_stored(std::uint64_t key) noexcept {
  const auto end = stored_.begin() + static_cast<std::ptrdiff_t>(size_);
  std::iota(stored_.begin(), end, std::uint8_t{0});
  for (std::uint64_t left = size_; left > 1; --left) {
    const std::uint64_t drawn = ((detail::random_word(key, left) >> 32) * left) >> 32;
    std::swap(stored_[drawn], stored_[left - 1]);
  }
}

std::uint64_t KeyedPermutation::operator()(std::uint64_t index) const noexcept {
  if (is_stored()) {
    return stored_[index];
  }
  do {
    std::array<Digits, 1> lane{digits(index)};
    encrypt(lane);
    index = index_of(lane[0]);
  } while (index >= size_);
  return index;
}

void KeyedPermutation::map(std::uint64_t first, std::uint64_t stride, std::span<std::size_t> images) const noexcept {
  if (is_stored() || images.size() < 3) {  // so few are not worth the lanes
    for (std::size_t& image : images) {
      image = (*this)(first);
      first += stride;
    }
    return;
  }
  const Digits step = digits(stride);
  Digits next = digits(first);
  std::array<Digits, kLanes> lanes;
  for (std::size_t begin = 0; begin < images.size(); begin += kLanes) {
    for (Digits& lane : lanes) {  // behind the last one they may be no digits of the radix: they are not looked at
      lane = next;
      next = {next.left + step.left, next.right + step.right};
      if (next.right >= right_radix_) {
        next = {next.left + 1, next.right - right_radix_};
      }
    }
    encrypt(lanes);
    const std::size_t count = std::min(kLanes, images.size() - begin);
    for (std::size_t lane = 0; lane < count; ++lane) {
      const std::uint64_t image = index_of(lanes[lane]);
      images[begin + lane] = image < size_ ? image : (*this)(image);
    }
  }
}

std::uint64_t KeyedPermutation::inverse(std::uint64_t image) const noexcept {
  if (is_stored()) {
    return static_cast<std::uint64_t>(std::find(stored_.begin(), stored_.end(), image) - stored_.begin());
  }
  do {
    image = index_of(decrypt(digits(image)));
  } while (image >= size_);
  return image;
}

template <std::size_t Lanes>
void KeyedPermutation::encrypt(std::array<Digits, Lanes>& lanes) const noexcept {
  for (std::size_t round = 0; round < kRounds; round += 2) {
    for (Digits& lane : lanes) {
      lane.left = add(lane.left, hash(lane.right, round_keys_[round], left_radix_), left_radix_);
    }
    for (Digits& lane : lanes) {
      lane.right = add(lane.right, hash(lane.left, round_keys_[round + 1], right_radix_), right_radix_);
    }
  }
}

KeyedPermutation::Digits KeyedPermutation::decrypt(Digits digits) const noexcept {
  for (std::size_t round = kRounds; round > 0; round -= 2) {
    digits.right = subtract(digits.right, hash(digits.left, round_keys_[round - 1], right_radix_), right_radix_);
    digits.left = subtract(digits.left, hash(digits.right, round_keys_[round - 2], left_radix_), left_radix_);
  }
  return digits;
}

}  // namespace torchfeed::samplers
