#pragma once

#include <torchfeed/plugin/compare/limited_sampler.h>
#include <torchfeed/plugin/loader/samples_in.h>
#include <torchfeed/plugin/loader_stats.h>

#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace torchfeed::compare {

/// A loader of any type, torch::data's too, and the step that its batches go to, as what measures them sees it. Its
/// dataset is there, the loader itself not before make(). For one thread.
class MeasuredLoader {
 public:
  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

  virtual ~MeasuredLoader() = default;

  virtual void make() = 0;
  /// Starts an epoch that ends after `batches` if not before. Whether there is a first batch.
  virtual bool begin(std::size_t batches) = 0;
  /// Hands the batch that is there to the step, and counts its samples.
  virtual std::size_t step() = 0;
  /// Gets the next batch. Whether there is one, else the epoch has ended.
  virtual bool next() = 0;
  /// Makes the epoch end behind what has been asked for.
  virtual void finish() = 0;
  /// Nothing but zeros where the loader keeps none.
  virtual LoaderStats stats() const = 0;
};

/// `MakeLoader` makes the loader, once; its sampler is a LimitedSampler that shares `left`. `Step` takes its batches.
template <typename MakeLoader, typename Step>
class LoaderOf final : public MeasuredLoader {
 public:
  /// `batch_size`: samples of a batch whose type does not tell.
  LoaderOf(MakeLoader make_loader, Step step, std::size_t batch_size, std::shared_ptr<std::size_t> left)
      : make_loader_(std::move(make_loader)), step_(std::move(step)), batch_size_(batch_size), left_(std::move(left)) {}

  void make() override { loader_ = make_loader_(); }

  bool begin(std::size_t batches) override {
    *left_ = batches;
    iterator_.reset();
    iterator_.emplace(loader_->begin());
    end_.emplace(loader_->end());
    return *iterator_ != *end_;
  }

  std::size_t step() override {
    auto& batch = **iterator_;
    const std::size_t samples = loader::samples_in(batch).value_or(batch_size_);
    std::invoke(step_, batch);
    return samples;
  }

  bool next() override {
    ++*iterator_;
    return *iterator_ != *end_;
  }

  void finish() override { *left_ = 0; }

  LoaderStats stats() const override {
    if constexpr (requires { loader_->stats(); }) {
      return loader_->stats();
    } else {
      return {};
    }
  }

 private:
  using LoaderPointer = std::invoke_result_t<MakeLoader&>;
  using Iterator = decltype(std::declval<LoaderPointer&>()->begin());

  MakeLoader make_loader_;
  Step step_;
  const std::size_t batch_size_;
  std::shared_ptr<std::size_t> left_;
  LoaderPointer loader_;
  std::optional<Iterator> iterator_;
  std::optional<Iterator> end_;
};

/// `make_loader` is called with what its sampler, a LimitedSampler, has to share.
template <typename MakeLoader, typename Step>
std::unique_ptr<MeasuredLoader> measured_loader(MakeLoader make_loader, Step step, std::size_t batch_size) {
  auto left = std::make_shared<std::size_t>(0);
  auto make = [make_loader = std::move(make_loader), left]() mutable { return make_loader(left); };
  return std::make_unique<LoaderOf<decltype(make), Step>>(std::move(make), std::move(step), batch_size, left);
}

}  // namespace torchfeed::compare
