#pragma once

#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/loader/dataset_shard.h>
#include <torchfeed/plugin/loader/sampler_archive.h>
#include <torchfeed/plugin/loader/saved_request.h>
#include <torchfeed/plugin/loader/stream_shards.h>
#include <torchfeed/plugin/loader_state.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

namespace torchfeed::loader {

/// What a loader asks for next, and under which number: requests that a saved state brought, then the sampler's. Of a
/// stream: also whose turn it is. The trainer, one thread at a time.
template <typename Dataset, typename Sampler>
class RequestSource {
 public:
  using RequestType = typename Sampler::BatchRequestType;

  struct Request {
    std::uint64_t batch = 0;
    std::uint64_t position = 0;  // of a stream: samples that the same shard was asked for before
    RequestType request;
  };

  /// `shards`: of a stream, those who read a part of it each.
  RequestSource(Sampler sampler, std::size_t batch_size, bool drop_last, std::size_t shards)
      : sampler_(std::move(sampler)), batch_size_(batch_size), drop_last_(drop_last), shards_(shards) {}

  /// Begins a new epoch.
  void restart() {
    next_.reset();
    saved_.clear();
    sampler_.reset();
    batch_ = 0;
    exhausted_ = false;
    if (Dataset::is_stateful) {
      shards_.restart();
    }
  }

  /// Goes on with the epoch that load() or put_back() has left here.
  void resume() noexcept { exhausted_ = false; }

  /// The next request; null at the end of the epoch. Throws what the sampler throws.
  Request* peek() {
    if (!next_ && !saved_.empty()) {
      const LoaderState::Request& saved = saved_.front();
      next_.emplace(Request{saved.batch, saved.position, load_request<RequestType>(saved)});
      saved_.pop_front();
    }
    if (!next_ && has_more()) {
      ask_sampler();
    }
    return next_ ? &*next_ : nullptr;
  }

  /// Is done with the request that peek() gave.
  void pop() noexcept { next_.reset(); }

  /// Whether the epoch has requests left, as far as is known.
  bool has_more() const noexcept {
    return next_ || !saved_.empty() || !(is_exhausted() || (kStream && shards_.ended()));
  }

  /// Whether requests wait here that the sampler has given before.
  bool has_waiting() const noexcept { return next_ || !saved_.empty(); }

  StreamShards& shards() noexcept { return shards_; }

  /// Of a stream with one shard: how far it was read when the next request comes.
  std::uint64_t position() const noexcept {
    std::int64_t position = shards_.positions()[0];
    for (const auto& request : saved_) {
      const auto before = static_cast<std::int64_t>(request.position);
      position = position < 0 ? before : std::min(position, before);
    }
    return static_cast<std::uint64_t>(std::max<std::int64_t>(position, 0));
  }

  /// Adds what is left here to `state`, behind requests that are in flight.
  void save(LoaderState& state) const {
    state.batch = batch_;
    if (next_) {
      state.pending.push_back(save_request(next_->request, next_->batch, next_->position));
    }
    state.pending.insert(state.pending.end(), saved_.begin(), saved_.end());
    state.sampler = save_sampler(sampler_);
    if (kStream) {
      state.positions = shards_.positions();
    }
  }

  /// Takes the place that `state` tells, once the sampler has. Throws c10::Error if that does not understand it.
  void load(const LoaderState& state) {
    load_sampler(sampler_, state.sampler);
    next_.reset();
    saved_.assign(state.pending.begin(), state.pending.end());
    batch_ = state.batch;
    if (kStream) {
      shards_.set_positions(state.positions);
    }
  }

  /// Takes back requests, the oldest first, that come before what is left here.
  void put_back(std::deque<LoaderState::Request> requests) {
    if constexpr (Sendable<RequestType>) {
      if (next_) {
        requests.push_back(save_request(next_->request, next_->batch, next_->position));
        next_.reset();
      }
    }
    saved_.insert(saved_.begin(), requests.begin(), requests.end());
  }

 private:
  static constexpr bool kStream = kIsStream<Dataset, RequestType>;

  /// Whether the sampler has no more; one that kGoesOn tells so itself, by ended(), and may have more later.
  bool is_exhausted() const noexcept {
    if constexpr (requires { requires Sampler::kGoesOn; }) {
      return sampler_.ended();
    } else {
      return exhausted_;
    }
  }

  /// Puts the sampler's next request into next_, but at the end of the epoch. Emplaces: a request need not be
  /// assignable.
  void ask_sampler() {
    std::optional<StreamShards::Turn> turn;
    if (kStream) {
      turn = shards_.next(batch_);
    }
    if (kStream && !turn) {
      exhausted_ = true;
      return;
    }
    detail::TorchOptional<RequestType> request = sampler_.next(batch_size_);
    bool dropped = false;
    if constexpr (!Dataset::is_stateful) {
      dropped = request && drop_last_ && request->size() < batch_size_;
    }
    if (!request || dropped) {
      exhausted_ = true;
      return;
    }
    std::uint64_t position = 0;
    if constexpr (kStream) {
      batch_ = turn->batch;
      position = turn->position;
      shards_.ask(turn->shard, samples_asked<Dataset>(*request, batch_size_));
    }
    next_.emplace(Request{batch_++, position, std::move(*request)});
  }

  Sampler sampler_;
  const std::size_t batch_size_;
  const bool drop_last_;
  StreamShards shards_;
  std::uint64_t batch_ = 0;  // number of the sampler's next request
  bool exhausted_ = false;   // the sampler has no more
  std::optional<Request> next_;
  std::deque<LoaderState::Request> saved_;
};

}  // namespace torchfeed::loader
