#include <torchfeed/plugin/loader/engine.h>
#include <torchfeed/plugin/loader/error_codec.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

namespace torchfeed::loader {
namespace {

using Clock = std::chrono::steady_clock;

// How often a waiting trainer looks whether its fork server is alive; results and dead workers wake it at once.
constexpr std::chrono::milliseconds kServerCheck{100};
// Some 10 us of looking before a sleep that costs two system calls and a wake-up of 50 us.
constexpr std::uint32_t kSpins = 200;

/// Spinning is for those who have a core to themselves.
std::uint32_t spins_for(std::size_t workers) { return workers + 1 <= threading::available_cpus().size() ? kSpins : 0; }

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

// ---- Result ----

Engine::Result::Result(Engine& engine, std::uint32_t index, Lease* lease)
    : engine_(&engine), index_(index), lease_(lease) {}

Engine::Result::Result(Result&& other) noexcept
    : engine_(std::exchange(other.engine_, nullptr)),
      index_(other.index_),
      lease_(std::exchange(other.lease_, nullptr)) {}

Engine::Result::~Result() {
  if (lease_ != nullptr) {
    lease_->release();
  } else if (engine_ != nullptr) {
    engine_->ring_.free(index_);
  }
}

BatchReader Engine::Result::reader() const {
  return {engine_->ring_.payload(index_), engine_->ring_.slot(index_).result, lease_};
}

// ---- Engine ----

// Slots: max_jobs for requests under way and as many again, four at least, for batches that the training loop keeps.
// Memory is committed only to those that are used.
Engine::Engine(const FullDataLoaderOptions& options, BatchMaker& maker)
    : options_(options),
      maker_(maker),
      most_leases_(static_cast<std::uint32_t>(std::max<std::size_t>(options.max_jobs, 4))),
      shared_(std::make_shared<LeasedRing>(static_cast<std::uint32_t>(options.max_jobs) + most_leases_,
                                           options.shared_memory_budget, spins_for(options.workers))),
      ring_(shared_->ring) {
  ring_.header().target_workers.store(static_cast<std::uint32_t>(options.workers), std::memory_order_relaxed);
  const WorkerJob job{&ring_, &maker, static_cast<int>(options.workers), options.seed, options.worker_init_fn};
  server_ = std::make_unique<ForkServer>(job, static_cast<std::uint32_t>(options.max_worker_restarts));
}

Engine::~Engine() {
  if (shared_->owner_depth != fork_depth()) {
    static_cast<void>(server_.release());  // a fork of the trainer: server and workers are its parent's
  }
}

void Engine::check_process() const {
  TORCH_CHECK(shared_->owner_depth == fork_depth(),
              "torchfeed: this process is a fork of the one that made the loader: only that one may use it");
}

bool Engine::can_post() noexcept {
  if (in_flight_.size() >= options_.max_jobs) {
    return false;
  }
  free_slot_ = ring_.find_free(first_ticket_);
  return free_slot_.has_value();
}

void Engine::wait_for_slot() {
  const auto begin = Clock::now();
  while (!can_post()) {
    if (options_.timeout && Clock::now() - begin >= *options_.timeout) {
      throw_timeout(options_.timeout->count(), -1, 0, {});
    }
    check_workers();
    ring_.wait_for_result(std::nullopt, 0, kServerCheck);
  }
  stats_.wait_seconds += seconds_since(begin);
}

std::uint32_t Engine::take_slot() {
  TORCH_CHECK(free_slot_, "torchfeed: post() without can_post()");
  return *std::exchange(free_slot_, std::nullopt);
}

void Engine::post_slot(std::uint32_t index, const BatchId& id, const Record& request) {
  Slot& slot = ring_.slot(index);
  slot.request = request;
  slot.id = id;
  in_flight_.push_back(index);
  ring_.post(index, next_ticket_++);
}

void Engine::post(const BatchId& id, const std::function<void(BatchWriter&)>& write) {
  const std::uint32_t index = take_slot();
  BatchArena arena(ring_, index, 0);
  BatchWriter writer(arena);
  write(writer);
  post_slot(index, id, writer.finish());
}

void Engine::post(const BatchId& id, const LoaderState::Request& request) {
  const std::uint32_t index = take_slot();
  // Offsets in a record count from the slot's begin, so that it can move as it is.
  ring_.reserve(index, request.bytes.size());
  std::memcpy(ring_.payload(index), request.bytes.data(), request.bytes.size());
  post_slot(index, id, {request.bytes.size(), request.stream_begin, request.stream_bytes});
}

/// Position in in_flight_ of the result to hand out next.
std::optional<std::size_t> Engine::find_result() const noexcept {
  const std::size_t end = options_.enforce_ordering ? std::min<std::size_t>(in_flight_.size(), 1) : in_flight_.size();
  for (std::size_t i = 0; i < end; ++i) {
    if (ring_.has_result(in_flight_[i])) {
      return i;
    }
  }
  return std::nullopt;
}

std::size_t Engine::wait_for_result() {
  if (const auto position = find_result()) {
    return *position;
  }
  const auto begin = Clock::now();
  for (;;) {
    std::chrono::nanoseconds patience = kServerCheck;
    if (options_.timeout) {
      const auto left = *options_.timeout - (Clock::now() - begin);
      if (left <= std::chrono::nanoseconds::zero()) {
        stats_.wait_seconds += seconds_since(begin);
        throw_timeout_of_next();
      }
      patience = std::min(patience, std::chrono::nanoseconds(left));
    }
    ring_.wait_for_result(options_.enforce_ordering ? std::optional(in_flight_.front()) : std::nullopt, first_ticket_,
                          patience);
    if (const auto position = find_result()) {
      stats_.wait_seconds += seconds_since(begin);
      return *position;
    }
    check_workers();
  }
}

Engine::Result Engine::next() {
  const std::size_t position = wait_for_result();
  const std::uint32_t index = in_flight_[position];
  in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(position));
  const Slot& slot = ring_.slot(index);
  stats_.produce_seconds += static_cast<double>(slot.produce_nanoseconds) * 1e-9;
  if (ring_.word(index).state == SlotState::kFailed) {
    const ErrorRecord error = slot.error;
    const std::uint64_t batch = slot.id.batch;
    const auto failed_indices = indices(index);
    ring_.free(index);
    throw_error(error, batch, failed_indices);
  }
  ++stats_.batches;
  stats_.bytes += slot.result.end - slot.request.end;
  if (shared_->leased.load(std::memory_order_relaxed) >= most_leases_) {
    ++stats_.copied_batches;
    return {*this, index, nullptr};
  }
  return {*this, index, new Lease(shared_, index)};
}

std::vector<LoaderState::Request> Engine::pending() const {
  std::vector<LoaderState::Request> requests;
  for (const std::uint32_t index : in_flight_) {
    const Slot& slot = ring_.slot(index);
    const auto* bytes = reinterpret_cast<const char*>(ring_.payload(index));
    requests.push_back(
        {slot.id.batch, slot.request.stream_begin, slot.request.stream_bytes, std::string(bytes, slot.request.end)});
  }
  return requests;
}

void Engine::cancel() noexcept {
  for (const std::uint32_t index : in_flight_) {
    if (!ring_.cancel(index) && ring_.has_result(index)) {
      ring_.free(index);
    }
  }
  in_flight_.clear();
  first_ticket_ = next_ticket_;  // what a worker is at now is dropped when it is done
}

void Engine::call_workers() noexcept {
  if (ring_.header().target_workers.exchange(static_cast<std::uint32_t>(options_.workers)) != options_.workers) {
    server_->poke();
  }
}

void Engine::send_workers_home() noexcept {
  ring_.header().target_workers.store(0, std::memory_order_seq_cst);
  ring_.wake_all_workers();
  server_->poke();
  while (ring_.header().alive_workers.load(std::memory_order_acquire) != 0 && server_->alive()) {
    ring_.wait_for_workers_to_leave(kServerCheck);
  }
}

LoaderStats Engine::stats() const noexcept {
  LoaderStats stats = stats_;
  stats.worker_restarts = ring_.header().restarts.load(std::memory_order_relaxed);
  stats.workers = static_cast<int>(ring_.header().target_workers.load(std::memory_order_relaxed));
  return stats;
}

std::vector<std::size_t> Engine::indices(std::uint32_t index) const {
  BatchReader request(ring_.payload(index), ring_.slot(index).request, nullptr);
  return maker_.indices(request);
}

void Engine::throw_timeout_of_next() const {
  const std::uint32_t index = in_flight_.front();
  const SlotWord word = ring_.word(index);
  const int worker = word.state == SlotState::kTaken ? static_cast<int>(word.owner) : -1;
  throw_timeout(options_.timeout->count(), worker, ring_.slot(index).id.batch, indices(index));
}

void Engine::check_workers() const {
  const RingHeader& header = ring_.header();
  const bool broken = header.broken.load(std::memory_order_acquire) != 0;
  if (!broken && server_->alive()) {
    return;
  }
  const int error = broken ? header.broken_errno.load(std::memory_order_relaxed) : -1;
  const std::uint32_t restarts = header.restarts.load(std::memory_order_relaxed);
  const int signal = header.last_signal.load(std::memory_order_relaxed);
  if (in_flight_.empty()) {
    throw_no_workers(error, restarts, signal, 0, {});
  }
  const std::uint32_t index = in_flight_.front();
  throw_no_workers(error, restarts, signal, ring_.slot(index).id.batch, indices(index));
}

}  // namespace torchfeed::loader
