#pragma once

#include <torchfeed/datasets/features/state.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace torchfeed::datasets::features {

// What indicators are made of. Windows are cut into blocks of their own length, counted from the first value, so that
// each window is the end of one block and the beginning of the next:
//
//   values      | 0 1 2 3 4 | 5 6 7 8 9 | ...      windows of 5
//   at value 7        [3 4 ] [5 6 7]               = ends[3] of the block that is full, with its own beginning
//
// The beginning grows by one value at a time, and when a block is full all its ends are computed at once, from the last
// value backwards. So a window costs O(1) amortised and nothing is ever taken away from a sum: no error outlives two
// blocks, and a value that was huge leaves no trace. What is computed depends on the values and their numbers alone.
// (van Herk 1992; Gil and Werman 1993, for minima.)

/// The newest `size` values combined by an associative operation: a sum, the least, the greatest.
template <typename Combine>
class WindowFold {
 public:
  explicit WindowFold(std::size_t size) : ends_(size) {}

  /// Whether there have been as many values as the window holds; before that what `push` gives means nothing.
  bool full() const { return full_; }

  double push(double value) {
    beginning_ = next_ == 0 ? value : Combine()(beginning_, value);
    ends_[next_] = value;
    if (++next_ < ends_.size()) return Combine()(ends_[next_], beginning_);
    for (std::size_t i = ends_.size() - 1; i-- > 0;) ends_[i] = Combine()(ends_[i], ends_[i + 1]);
    next_ = 0;
    full_ = true;
    return beginning_;
  }

  template <typename State>
  void visit(State& state) {
    state.numbers(ends_);
    state.number(beginning_);
    state.index(next_, ends_.size());
    state.flag(full_);
  }

 private:
  std::vector<double> ends_;  // before next_: the values of the block that grows; from it on: ends of the one before
  double beginning_ = 0;
  std::size_t next_ = 0;
  bool full_ = false;
};

struct Sum {
  double operator()(double a, double b) const { return a + b; }
};
struct Least {
  double operator()(double a, double b) const { return std::min(a, b); }
};
struct Greatest {
  double operator()(double a, double b) const { return std::max(a, b); }
};

/// What `WindowMoments` knows of a window.
struct Moments {
  double mean;
  double variance;   ///< the population's
  double deviation;  ///< of the newest value from the mean, more exact than their difference
};

/// Mean and variance of the newest `size` values.
///
/// Sums are of differences from one of the values that are summed (the first of a beginning, the last of an end), which
/// are exact for values within a factor of two of each other (Sterbenz). So a price of 1e9 that moves by 1e-3 loses no
/// digits, and equal values have exactly their mean and no variance.
class WindowMoments {
 public:
  explicit WindowMoments(std::size_t size) : ends_(size), end_squares_(size), share_(1 / static_cast<double>(size)) {}

  bool full() const { return full_; }

  Moments push(double value) {
    if (next_ == 0) {
      first_ = value;
      sum_ = 0;
      squares_ = 0;
    }
    ends_[next_++] = value;
    const double difference = value - first_;
    sum_ += difference;
    squares_ += difference * difference;
    const auto count = static_cast<double>(next_);
    const double mean = sum_ / count;  // this and what follows is relative to first_
    const double squares = spread(squares_, sum_, mean);
    if (next_ == ends_.size()) {
      compute_ends();
      return {first_ + mean, squares * share_, difference - mean};
    }
    // Two parts with a mean and a sum of squares each (Chan, Golub and LeVeque 1983).
    const double weight = static_cast<double>(ends_.size() - next_) * share_;
    const double apart = (last_ - first_) + ends_[next_] - mean;
    const double all_mean = mean + apart * weight;
    const double all_squares = squares + end_squares_[next_] + apart * apart * (count * weight);
    return {first_ + all_mean, all_squares * share_, difference - all_mean};
  }

  template <typename State>
  void visit(State& state) {
    state.numbers(ends_);
    state.numbers(end_squares_);
    state.number(last_);
    state.number(first_);
    state.number(sum_);
    state.number(squares_);
    state.index(next_, ends_.size());
    state.flag(full_);
  }

 private:
  /// Squares around the mean from those around a value that is one of those summed. As it is one, the difference is at
  /// least 1 / (count + 1) of `squares`, which bounds what cancels.
  static double spread(double squares, double sum, double mean) { return std::max(squares - sum * mean, 0.0); }

  void compute_ends() {
    last_ = ends_.back();
    double sum = 0;
    double squares = 0;
    double count = 0;
    for (std::size_t i = ends_.size(); i-- > 0;) {
      const double difference = ends_[i] - last_;
      sum += difference;
      squares += difference * difference;
      count += 1;
      ends_[i] = sum / count;
      end_squares_[i] = spread(squares, sum, ends_[i]);
    }
    next_ = 0;
    full_ = true;
  }

  std::vector<double> ends_;         // before next_: values; from it on: means of the ends, relative to last_
  std::vector<double> end_squares_;  // from next_ on: squares around those means
  double share_;                     // of one value in the window
  double last_ = 0;
  double first_ = 0;
  double sum_ = 0;
  double squares_ = 0;
  std::size_t next_ = 0;
  bool full_ = false;
};

/// Exponential smoothing that starts with the mean of the first `size` values.
class Smoothing {
 public:
  /// `weight` of a new value.
  Smoothing(std::size_t size, double weight) : size_(size), weight_(weight) {}

  bool full() const { return seen_ == size_; }

  double push(double value) {
    if (seen_ == size_) return value_ += (value - value_) * weight_;
    // The sum of differences from the first keeps equal values what they are.
    if (seen_ == 0) value_ = value;
    sum_ += value - value_;
    if (++seen_ == size_) value_ += sum_ / static_cast<double>(size_);
    return value_;
  }

  template <typename State>
  void visit(State& state) {
    state.number(value_);
    state.number(sum_);
    state.index(seen_, size_ + 1);
  }

 private:
  std::size_t size_;
  double weight_;
  double value_ = 0;
  double sum_ = 0;
  std::size_t seen_ = 0;
};

/// The value of `size` values ago; 0 for the first ones.
class Lag {
 public:
  explicit Lag(std::size_t size) : values_(size) {}

  double push(double value) {
    const double old = std::exchange(values_[next_], value);
    next_ = next_ + 1 == values_.size() ? 0 : next_ + 1;
    return old;
  }

  template <typename State>
  void visit(State& state) {
    state.numbers(values_);
    state.index(next_, values_.size());
  }

 private:
  std::vector<double> values_;
  std::size_t next_ = 0;
};

}  // namespace torchfeed::datasets::features
