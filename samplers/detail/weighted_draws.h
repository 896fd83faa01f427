#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace torchfeed::samplers::detail {

/// Draws indices in proportion to weights, one random word and O(1) time each: Walker's alias method, the table built
/// after Vose ("A Linear Algorithm for Generating Random Numbers with a Given Distribution", 1991).
///
/// Weights become integers at once, the largest of them 2^(63 - log2(number of weights)), and none above 0 becomes 0;
/// from there on all is exact, so that every machine draws the same. 16 bytes a weight.
class AliasTable {
 public:
  /// Weights are finite, none is negative, one at least is above 0.
  explicit AliasTable(std::span<const double> weights);

  std::size_t operator()(std::uint64_t word) const noexcept;

 private:
  /// A column of the table is drawn as likely as any other, and holds its own index below `threshold`, else `alias`.
  struct Column {
    std::uint64_t threshold;  // of 2^64
    std::uint64_t alias;
  };

  std::vector<Column> columns_;
};

/// Draws indices one after the other in proportion to weights, none twice: those with the least -log(u) / weight, where
/// u is uniform in (0, 1) (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). That is exactly
/// what drawing, and setting the drawn one's weight to 0, would give, order included.
class SuccessiveDraws {
 public:
  /// Weights as AliasTable's.
  explicit SuccessiveDraws(std::span<const double> weights);

  /// Weights above 0.
  std::size_t candidates() const noexcept { return candidates_.size(); }

  /// `count` of them, at most candidates(), in the order in which they are drawn. O(candidates() + count * log(count)).
  std::vector<std::size_t> operator()(std::uint64_t key, std::size_t count) const;

 private:
  struct Candidate {
    std::size_t index;
    double weight;
  };

  std::vector<Candidate> candidates_;
};

/// -log(u) for 0 < u <= 1, the same on every machine, which std::log is not.
double negative_log(double u) noexcept;

}  // namespace torchfeed::samplers::detail
