#pragma once

#include <torchfeed/plugin/batch_codec.h>

#include <torch/data/samplers/base.h>

#include <cstddef>

namespace torchfeed::loader {

/// What stands in a sampler's place for a stateful dataset, which knows by itself what comes next and when it ends:
/// asks for batches of one size for ever.
template <typename Request>
class EndlessSampler final : public torch::data::samplers::Sampler<Request> {
 public:
  using Next = detail::TorchOptional<Request>;

  void reset(detail::TorchOptional<std::size_t> /*new_size*/ = {}) override {}
  Next next(std::size_t batch_size) override { return Next(Request(batch_size)); }
  void save(torch::serialize::OutputArchive& /*archive*/) const override {}
  void load(torch::serialize::InputArchive& /*archive*/) override {}
};

}  // namespace torchfeed::loader
