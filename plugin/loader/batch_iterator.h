#pragma once

#include <torch/data/iterator.h>

#include <c10/util/Exception.h>

#include <utility>

namespace torchfeed::loader {

/// torch::data's iterator, but for two things. It lets go of a batch before it asks for the next, so that the batch's
/// memory is free for that. And an exception takes the place of one batch, the first as any other: the next increment
/// goes on behind it.
template <typename Batch>
class BatchIterator final : public torch::data::detail::ValidIterator<Batch> {
  using Base = torch::data::detail::ValidIterator<Batch>;

 public:
  using Base::operator==;

  explicit BatchIterator(typename Base::BatchProducer next_batch) : Base(std::move(next_batch)) {}

  void next() override {
    if (!failed_) {
      initialize();
      TORCH_CHECK(this->batch_.has_value(), "Attempted to increment iterator past the end");
    }
    fetch();
    this->initialized_ = true;
  }

  Batch& get() override {
    initialize();
    TORCH_CHECK(!failed_, "Attempted to dereference an iterator whose batch could not be made");
    return Base::get();
  }

  bool operator==(const torch::data::detail::SentinelIterator<Batch>& /*end*/) const override {
    initialize();
    return !failed_ && !this->batch_.has_value();
  }

 private:
  void initialize() const {
    if (!this->initialized_) {
      fetch();
      this->initialized_ = true;
    }
  }

  void fetch() const {
    failed_ = true;
    this->batch_ = {};
    this->batch_ = this->next_batch_();
    failed_ = false;
  }

  mutable bool failed_ = false;  // the batch at hand is an exception that was thrown
};

}  // namespace torchfeed::loader
