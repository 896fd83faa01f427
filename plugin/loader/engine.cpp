#include <torchfeed/plugin/loader/engine.h>
#include <torchfeed/plugin/loader/error_codec.h>
#include <torchfeed/plugin/loader/fork_server.h>
#include <torchfeed/plugin/loader/stream_shards.h>
#include <torchfeed/plugin/loader/thread_crew.h>
#include <torchfeed/plugin/threading/cpu_affinity.h>

#include <c10/util/Exception.h>

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

namespace torchfeed::loader {
namespace {

constexpr std::uint64_t kPage = 4096;

// Some 10 us of looking before a sleep that costs two system calls and a wake-up of 50 us.
constexpr std::uint32_t kSpins = 200;

/// Spinning is for those who have a core to themselves.
std::uint32_t spins_for(const FullDataLoaderOptions& options, std::size_t workers) {
  const bool own = !options.worker_cpus.empty();
  const std::size_t cpus = own ? options.worker_cpus.size() : threading::available_cpus().size();
  return workers + (own ? 0 : 1) <= cpus ? kSpins : 0;
}

/// Slots for batches that the training loop keeps, beside max_jobs for requests under way. Memory is committed only to
/// those that are used.
std::uint32_t most_leases(const FullDataLoaderOptions& options) {
  return static_cast<std::uint32_t>(std::max<std::size_t>(options.max_jobs, 4));
}

}  // namespace

std::shared_ptr<LeasedRing> make_ring(const FullDataLoaderOptions& options) {
  // Threads need the slots' words, not their memory.
  const std::uint64_t budget = options.worker_mode == WorkerMode::kThread ? 0 : options.shared_memory_budget;
  const std::size_t jobs = most_jobs(options, options.workers);
  auto ring = std::make_shared<LeasedRing>(static_cast<std::uint32_t>(jobs) + most_leases(options), budget,
                                           /*spins=*/0);
  if (options.pin_memory && options.worker_mode == WorkerMode::kProcess) {
    if (const auto driver = find_host_memory_driver()) {
      ring->pinned.emplace(*driver);
    }
  }
  return ring;
}

// ---- Result ----

Engine::Result::Result(SlotRing* ring, std::uint32_t index) : ring_(ring), index_(index), id_(ring->slot(index).id) {}

Engine::Result::Result(Result&& other) noexcept
    : ring_(std::exchange(other.ring_, nullptr)),
      index_(other.index_),
      lease_(std::exchange(other.lease_, nullptr)),
      id_(other.id_) {}

Engine::Result::~Result() {
  if (lease_ != nullptr) {
    lease_->release();
  } else if (ring_ != nullptr) {
    ring_->free(index_);
  }
}

// ---- Engine ----

Engine::Engine(const FullDataLoaderOptions& options, std::shared_ptr<LeasedRing> ring, BatchMaker& maker,
               Telemetry& telemetry, std::size_t workers, bool needs_all_workers)
    : options_(options),
      workers_(workers),
      lookahead_(options_),
      maker_(maker),
      telemetry_(telemetry),
      shared_(std::move(ring)),
      ring_(shared_->ring),
      memory_(*shared_),
      most_leases_(most_leases(options)) {
  ring_.header().spins.store(spins_for(options, workers), std::memory_order_relaxed);
  ring_.header().target_workers.store(static_cast<std::uint32_t>(workers), std::memory_order_relaxed);
  ring_.header().needs_all_workers = needs_all_workers;
  const WorkerJob job{&ring_,
                      &maker_,
                      static_cast<int>(options.workers),
                      options.seed,
                      options.worker_mode,
                      options.worker_init_fn,
                      options.worker_cpus};
  if (options.worker_mode == WorkerMode::kThread) {
    crew_ = std::make_unique<ThreadCrew>(job);
  } else {
    crew_ = std::make_unique<ForkServer>(job, static_cast<std::uint32_t>(options.max_worker_restarts));
  }
}

Engine::~Engine() {
  if (!is_owner()) {
    static_cast<void>(crew_.release());  // a fork of the trainer: the workers are its parent's
  } else {
    cancel();
  }
}

void Engine::check_process() const {
  TORCH_CHECK(is_owner(),
              "torchfeed: this process is a fork of the one that made the loader: only that one may use it");
}

// ---- Requests ----

/// Whether results that wait behind an unfinished one are not counted against max_jobs: in order, one slow batch would
/// else let all workers idle.
bool Engine::counts_unfinished_only() const noexcept {
  return options_.enforce_ordering && !in_flight_.empty() && !ring_.has_result(in_flight_.front());
}

/// Requests in flight that have a result.
std::size_t Engine::finished() const noexcept {
  return static_cast<std::size_t>(std::count_if(in_flight_.begin(), in_flight_.end(),
                                                [this](std::uint32_t index) { return ring_.has_result(index); }));
}

std::optional<std::uint32_t> Engine::find_slot() noexcept {
  // One that is tried alone must not share the memory with others that are posted meanwhile.
  if (held_ != 0 || alone_ != kNone) {
    return std::nullopt;
  }
  const std::size_t most = lookahead_.jobs(workers_);
  if (in_flight_.size() >= most) {
    if (!counts_unfinished_only()) {
      return std::nullopt;
    }
    if (in_flight_.size() - finished() >= most) {
      return std::nullopt;
    }
  }
  const auto index = ring_.find_free(first_ticket_);
  if (index) {
    if (!memory_.fits_one_more() && !in_flight_.empty()) {
      return std::nullopt;
    }
    memory_.trim(*index);
  }
  return index;
}

void Engine::wait_for_slot() {
  const auto begin = Clock::now();
  while (!find_slot()) {
    if (options_.timeout && Clock::now() - begin >= *options_.timeout) {
      throw_timeout(options_.timeout->count(), -1, 0, {});
    }
    if (crew_is_lost()) {
      throw_crew_lost();
    }
    ring_.wait_for_result(std::nullopt, 0, kCrewCheck);
  }
  telemetry_.waited(begin, {});
}

bool Engine::post_with_freed_memory(const std::function<bool()>& try_again) {
  const auto begin = Clock::now();
  for (;;) {
    const bool busy = free_results();
    memory_.give_back_all();
    if (try_again()) {
      return true;
    }
    if (!busy) {
      return false;
    }
    if (options_.timeout && Clock::now() - begin >= *options_.timeout) {
      throw_timeout(options_.timeout->count(), -1, 0, {});
    }
    if (crew_is_lost()) {
      throw_crew_lost();
    }
    ring_.wait_for_result(std::nullopt, 0, kCrewCheck);
  }
}

void Engine::post(std::uint32_t index, const BatchId& id, std::uint16_t worker, std::uint64_t position) {
  Slot& slot = ring_.slot(index);
  slot.id = id;
  slot.position = position;
  in_flight_.push_back(index);
  // Workers that spin look at this line: it is written only where it changes.
  auto& trainer_cpu = ring_.header().trainer_cpu;
  if (const int cpu = ::sched_getcpu(); trainer_cpu.load(std::memory_order_relaxed) != cpu) {
    trainer_cpu.store(cpu, std::memory_order_relaxed);
  }
  ring_.post(index, next_ticket_++, worker);
}

void Engine::cancel(StreamShards* streams) noexcept {
  // Newest first: a worker that claims one of a stream meanwhile has then claimed the older ones, too.
  for (auto position = in_flight_.rbegin(); position != in_flight_.rend(); ++position) {
    const std::uint32_t index = *position;
    const Slot& slot = ring_.slot(index);
    if (ring_.word(index).state == SlotState::kHeld || ring_.has_result(index)) {
      ring_.free(index);
    } else if (ring_.cancel(index) && streams != nullptr) {
      streams->take_back(slot.designated, slot.position);
    }
  }
  in_flight_.clear();
  held_ = 0;
  alone_ = kNone;
  first_ticket_ = next_ticket_;  // what a worker is at now is dropped when it is done
  ring_.header().first_ticket.store(first_ticket_, std::memory_order_relaxed);
}

/// While none is in flight: frees results that have come since, which are nobody's. Whether a worker is still at one.
bool Engine::free_results() noexcept {
  bool busy = false;
  for (std::uint32_t i = 0; i < ring_.size(); ++i) {
    busy = busy || ring_.word(i).state == SlotState::kTaken;
    if (ring_.has_result(i)) {
      ring_.free(i);
    }
  }
  return busy;
}

void Engine::wait_until_idle() noexcept {
  while (free_results()) {
    ring_.wait_for_result(std::nullopt, 0, kCrewCheck);
  }
}

// ---- Results ----

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

/// A worker that waits for memory with a batch that it cannot make again gets what free slots hold.
void Engine::lend_memory() noexcept {
  auto& wanted = ring_.header().memory_wanted;
  if (wanted.load(std::memory_order_relaxed) != 0 && wanted.exchange(0, std::memory_order_seq_cst) != 0) {
    memory_.give_back_all();
  }
}

/// Waits, until `deadline` if there is one, for a result to hand out: its position in in_flight_.
std::size_t Engine::wait_for_result(const std::function<bool()>& refill, std::optional<Clock::time_point> deadline) {
  lend_memory();
  post_held();
  if (const auto position = find_result()) {
    return *position;
  }
  std::optional<Clock::time_point> begin;
  for (;;) {
    lend_memory();
    post_held();
    const std::size_t known = finished();  // before looking, so that none that comes after is taken for known
    if (const auto position = find_result()) {
      if (begin) {
        telemetry_.waited(*begin, ring_.slot(in_flight_[*position]).id);
      }
      return *position;
    }
    const auto now = Clock::now();
    std::chrono::nanoseconds patience = kCrewCheck;
    if (deadline && now >= *deadline) {
      telemetry_.waited(begin.value_or(now), {});
      throw_timeout_of_next();
    }
    if (deadline) {
      patience = std::min(patience, std::chrono::nanoseconds(*deadline - now));
    }
    if (begin && crew_is_lost()) {
      // What the last of them died of was stored before it was told that none is left.
      if (!find_result()) {
        throw_crew_lost();
      }
      continue;
    }
    if (!begin) {
      begin = now;
    }
    // In order it is the front that is waited for, but others' results free workers for requests that are left.
    const bool others_matter = held_ != 0 || (refill() && ring_.has_free());
    // Not for long: what the trainer waits for may be there before a late one that is slow, or whose worker hangs.
    const std::chrono::nanoseconds late_for = *begin + Lookahead::kLongestLate - now;
    const bool may_be_late = held_ == 0 && late_for.count() > 0;
    if (const auto late = may_be_late ? lookahead_.late_result(ring_, in_flight_, workers_) : std::nullopt) {
      patience = std::min(patience, late_for);
      ring_.wait_for_result(*late, first_ticket_, patience, 0, Due::kWhenWoken);
    } else if (options_.enforce_ordering && !others_matter) {
      ring_.wait_for_result(in_flight_.front(), first_ticket_, patience);
    } else {
      ring_.wait_for_result(std::nullopt, first_ticket_, patience, known);
    }
  }
}

/// Whether a worker is at a request in flight, or may be soon.
bool Engine::anyone_at_work() const noexcept {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [this](std::uint32_t index) {
    const auto state = ring_.word(index).state;
    return state == SlotState::kPosted || state == SlotState::kTaken;
  });
}

/// If the failed batch at `position` found no memory that others have, lets it wait for theirs. Each time that it fails
/// again, some of that is gone: what free slots have, what others are at, the newest of the results behind it, which
/// are made again later. False when it has failed alone.
bool Engine::put_off(std::size_t position) noexcept {
  const std::uint32_t index = in_flight_[position];
  const Slot& slot = ring_.slot(index);
  // A stream has gone on and could not make the batch again.
  const std::uint64_t wanted = slot.error.bytes_wanted;
  const bool found_none = ring_.word(index).state == SlotState::kFailed && wanted != 0;
  if (!found_none || wanted == ErrorRecord::kNeverFits || slot.designated != kAnyWorker) {
    return false;
  }
  memory_.saw(wanted);
  if (!memory_.give_back_all() && !anyone_at_work()) {
    const auto other = newest_result(index);
    if (other && options_.enforce_ordering) {
      hold(*other);
    }
    if (!other && std::exchange(alone_, ring_.word(index).ticket) == ring_.word(index).ticket) {
      return false;  // it had all that there is, once
    }
  }
  hold(index);
  return true;
}

/// The newest request in flight, other than `index`, with a result that has memory to give.
std::optional<std::uint32_t> Engine::newest_result(std::uint32_t index) const noexcept {
  for (auto other = in_flight_.rbegin(); other != in_flight_.rend(); ++other) {
    if (*other != index && ring_.has_result(*other) &&
        ring_.charged_bytes(*other) > ring_.slot(*other).request.end + kPage) {
      return *other;
    }
  }
  return std::nullopt;
}

/// Drops a result and keeps its request, with no more memory than that takes.
void Engine::hold(std::uint32_t index) noexcept {
  memory_.shrink(index, ring_.slot(index).request.end);
  ring_.hold(index);
  ++held_;
}

/// Posts the oldest request again that found no memory, when nobody is at work and nothing is to be handed out that has
/// what it needs.
void Engine::post_held() noexcept {
  if (held_ == 0 || anyone_at_work() || find_result()) {
    return;
  }
  const auto oldest = std::find_if(in_flight_.begin(), in_flight_.end(),
                                   [this](std::uint32_t index) { return ring_.word(index).state == SlotState::kHeld; });
  ring_.post_again(*oldest);
  --held_;
}

Lease* Engine::lease(std::uint32_t index) {
  if (options_.worker_mode == WorkerMode::kThread) {
    return nullptr;
  }
  if (shared_->leased.load(std::memory_order_relaxed) >= most_leases_ || !memory_.fits_one_more_beside(index)) {
    ++telemetry_.stats().copied_batches;
    return nullptr;
  }
  if (shared_->pinned) {
    // What the batch has, in whole pages, and not what is charged: of that, a worker that died may have had nothing.
    const std::uint64_t bytes = (ring_.slot(index).result.end + kPage - 1) / kPage * kPage;
    shared_->pinned->pin(index, ring_.payload(index), bytes);
  }
  return new Lease(shared_, index);
}

Engine::Result Engine::next(const std::function<bool()>& refill) {
  complete_crew();
  std::optional<Clock::time_point> deadline;
  if (options_.timeout) {
    deadline = Clock::now() + *options_.timeout;
  }
  std::size_t position = wait_for_result(refill, deadline);
  while (put_off(position)) {
    position = wait_for_result(refill, deadline);
  }
  const std::uint32_t index = in_flight_[position];
  if (options_.auto_workers && ring_.word(index).state == SlotState::kFailed &&
      ring_.slot(index).error.bytes_wanted != 0) {
    throw WorkersLackResources("a batch does not fit into shared memory");
  }
  in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(position));
  Result result(&ring_, index);
  const Slot& slot = ring_.slot(index);
  const SlotWord word = ring_.word(index);
  if (word.ticket == alone_) {
    alone_ = kNone;
  }
  telemetry_.restarts(ring_.header().restarts.load(std::memory_order_relaxed));
  telemetry_.produced(word.owner, slot.produce_begin, slot.produce_nanoseconds, slot.id);
  lookahead_.saw_time(slot.produce_nanoseconds);
  if (word.state == SlotState::kFailed) {
    maker_.rethrow(index);
  }
  memory_.saw(slot.result.end);
  auto& stats = telemetry_.stats();
  stats.bytes += slot.result.end - slot.request.end;
  result.lease_ = lease(index);
  return result;
}

// ---- Workers ----

void Engine::set_workers(std::size_t count) {
  workers_ = count;
  ring_.header().spins.store(spins_for(options_, count), std::memory_order_relaxed);
  crew_->call(static_cast<std::uint32_t>(count));
  if (count == 0) {
    give_back_memory();
  }
}

void Engine::give_back_memory() noexcept {
  if (in_flight_.empty()) {
    free_results();
  }
  memory_.give_back_all();
}

/// Calls workers again that could not come when they were called, as those whose numbers they have were still at a
/// batch.
void Engine::complete_crew() {
  const auto& called = ring_.header().target_workers;
  if (called.load(std::memory_order_relaxed) < workers_) {
    try {
      crew_->call(static_cast<std::uint32_t>(workers_));
    } catch (const std::system_error&) {
      workers_ = called.load(std::memory_order_relaxed);  // goes on with those that are there
    }
  }
}

void Engine::call_workers() {
  if (ring_.header().target_workers.load(std::memory_order_relaxed) != workers_) {
    try {
      crew_->call(static_cast<std::uint32_t>(workers_));
    } catch (...) {
      crew_->send_home();  // all or none, so that the next call tries again
      throw;
    }
  }
}

void Engine::send_workers_home() noexcept { crew_->send_home(); }

LoaderStats Engine::stats() const {
  LoaderStats stats = telemetry_.stats();
  stats.worker_restarts = ring_.header().restarts.load(std::memory_order_relaxed);
  stats.workers = static_cast<int>(ring_.header().target_workers.load(std::memory_order_relaxed));
  return stats;
}

void Engine::throw_timeout_of_next() const {
  const std::uint32_t index = in_flight_.front();
  const SlotWord word = ring_.word(index);
  const int worker = word.state == SlotState::kTaken ? static_cast<int>(word.owner) : -1;
  throw_timeout(options_.timeout->count(), worker, ring_.slot(index).id.batch, maker_.indices(index));
}

/// Whether no worker is left and none will be. What workers and server have stored before is seen after.
bool Engine::crew_is_lost() const noexcept { return ring_.is_broken() || !crew_->alive(); }

void Engine::throw_crew_lost() const {
  const RingHeader& header = ring_.header();
  const bool server_died = !ring_.is_broken() && !crew_->alive();
  const int error = server_died ? -1 : header.broken_errno.load(std::memory_order_relaxed);
  if (options_.auto_workers && error != 0) {
    throw WorkersLackResources(server_died ? "the fork server died"
                                           : std::string("no worker can be forked: ") + std::strerror(error));
  }
  const std::uint32_t restarts = header.restarts.load(std::memory_order_relaxed);
  const int signal = header.last_signal.load(std::memory_order_relaxed);
  if (in_flight_.empty()) {
    throw_no_workers(error, restarts, signal, 0, {});
  }
  const std::uint32_t index = in_flight_.front();
  throw_no_workers(error, restarts, signal, ring_.slot(index).id.batch, maker_.indices(index));
}

}  // namespace torchfeed::loader
