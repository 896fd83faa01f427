#pragma once

#include <torchfeed/plugin/batch_codec.h>

#include <torch/data/samplers/base.h>

#include <cstddef>
#include <memory>
#include <utility>

namespace torchfeed::compare {

/// A sampler that is asked so many times at most: whoever shares `left` says how often it still gives a request before
/// the epoch ends, so that one of any length can be ended at once and in good order.
template <typename Sampler>
class LimitedSampler final : public torch::data::samplers::Sampler<typename Sampler::BatchRequestType> {
 public:
  using Request = typename Sampler::BatchRequestType;
  using Next = detail::TorchOptional<Request>;

  LimitedSampler(Sampler sampler, std::shared_ptr<std::size_t> left)
      : sampler_(std::move(sampler)), left_(std::move(left)) {}

  void reset(detail::TorchOptional<std::size_t> new_size = {}) override { sampler_.reset(new_size); }
  Next next(std::size_t batch_size) override {
    if (*left_ == 0) {
      return {};
    }
    --*left_;
    return sampler_.next(batch_size);
  }
  void save(torch::serialize::OutputArchive& archive) const override { sampler_.save(archive); }
  void load(torch::serialize::InputArchive& archive) override { sampler_.load(archive); }

 private:
  Sampler sampler_;
  std::shared_ptr<std::size_t> left_;
};

}  // namespace torchfeed::compare
