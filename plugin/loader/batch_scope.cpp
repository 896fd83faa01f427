#include <torchfeed/plugin/loader/batch_scope.h>

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>
#include <utility>

namespace torchfeed {
namespace loader {
namespace {

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the seed depends on every bit of the input.
std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15U;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31);
}

std::uint64_t seed_of(const BatchId& id) { return mix(mix(mix(id.seed) ^ id.epoch) ^ id.batch); }

/// This thread's batch, for generator(); seeded only when asked for.
struct CurrentBatch {
  bool active = false;
  bool seeded = false;
  std::uint64_t seed = 0;
  at::Generator generator;
};

CurrentBatch& current_batch() {
  thread_local CurrentBatch batch;
  return batch;
}

std::optional<WorkerInfo>& current_worker() {
  thread_local std::optional<WorkerInfo> info;
  return info;
}

/// Of a worker process, for threads that the dataset starts there. Written once, before any of them is.
std::optional<WorkerInfo> process_worker;

at::CPUGeneratorImpl* default_generator() {
  return static_cast<at::CPUGeneratorImpl*>(at::detail::getDefaultCPUGenerator().unsafeGetGeneratorImpl());
}

}  // namespace

struct BatchScope::Outer {
  CurrentBatch batch;
  BatchArena* arena = nullptr;
  std::shared_ptr<at::CPUGeneratorImpl> default_generator;
  bool shares_saved = false;
};

namespace {

/// What torch's default generator was before the batches that the threads of this process make in their training loops:
/// saved by the first of such batches at once, put back by the last, as between them it is nobody's.
struct SavedGenerator {
  std::mutex mutex;
  std::size_t scopes = 0;
  std::shared_ptr<at::CPUGeneratorImpl> generator;
};

/// Never destroyed, as threads may make batches while the process ends.
SavedGenerator& saved_generator() {
  static auto* const saved = new SavedGenerator;
  return *saved;
}

std::shared_ptr<at::CPUGeneratorImpl> copy_default_generator() {
  auto* generator = default_generator();
  const std::lock_guard<std::mutex> lock(generator->mutex_);
  return generator->clone();
}

void put_back(at::CPUGeneratorImpl& saved) {
  auto* generator = default_generator();
  const std::lock_guard<std::mutex> lock(generator->mutex_);
  generator->set_engine(saved.engine());
  generator->set_next_float_normal_sample(saved.next_float_normal_sample());
  generator->set_next_double_normal_sample(saved.next_double_normal_sample());
}

}  // namespace

BatchScope::BatchScope(const BatchId& id, BatchArena* arena, Workplace place) {
  if (span_.isActive()) {
    span_.before("torchfeed::make_batch");
  }
  auto& batch = current_batch();
  const bool restore = place == Workplace::kTrainer;
  if (restore || batch.active) {
    outer_ = std::make_unique<Outer>();
    outer_->arena = current_arena();
    if (batch.active) {
      outer_->batch = std::exchange(batch, {});
    }
  }
  batch.active = true;
  current_arena() = arena;
  if (restore && outer_->batch.active) {
    outer_->default_generator = copy_default_generator();  // a batch within a batch: back to that one's
  } else if (restore) {
    outer_->shares_saved = true;
    auto& saved = saved_generator();
    const std::lock_guard<std::mutex> lock(saved.mutex);
    if (saved.scopes++ == 0) {
      saved.generator = copy_default_generator();
    }
  }
  reseed(id, place);
}

BatchScope::~BatchScope() {
  current_batch().active = false;
  current_arena() = nullptr;
  if (!outer_) {
    return;
  }
  current_arena() = outer_->arena;
  if (outer_->batch.active) {
    current_batch() = std::move(outer_->batch);
  }
  if (outer_->default_generator) {
    put_back(*outer_->default_generator);
  }
  if (outer_->shares_saved) {
    auto& saved = saved_generator();
    const std::lock_guard<std::mutex> lock(saved.mutex);
    if (--saved.scopes == 0) {
      put_back(*std::exchange(saved.generator, nullptr));
    }
  }
}

void reseed(const BatchId& id, Workplace place) {
  auto& batch = current_batch();
  batch.seeded = false;
  batch.seed = seed_of(id);
  if (place == Workplace::kWorkerThread) {
    return;
  }
  auto* generator = default_generator();
  const std::lock_guard<std::mutex> lock(generator->mutex_);
  // Another stream than generator()'s, so that code which uses both sees independent numbers.
  generator->set_current_seed(mix(batch.seed));
}

void set_worker_info(const WorkerInfo& info) {
  current_worker() = info;
  if (info.mode == WorkerMode::kProcess && !process_worker) {
    process_worker = info;
  }
}

}  // namespace loader

std::optional<WorkerInfo> worker_info() {
  const auto& info = loader::current_worker();
  return info ? info : loader::process_worker;
}

at::Generator generator() {
  auto& batch = loader::current_batch();
  if (!batch.active) {
    return at::detail::getDefaultCPUGenerator();
  }
  if (!batch.generator.defined()) {
    batch.generator = at::detail::createCPUGenerator();
  }
  if (!batch.seeded) {
    const std::lock_guard<std::mutex> lock(batch.generator.mutex());
    batch.generator.set_current_seed(batch.seed);
    batch.seeded = true;
  }
  return batch.generator;
}

}  // namespace torchfeed
