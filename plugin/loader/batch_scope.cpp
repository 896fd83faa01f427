#include <torchfeed/plugin/loader/batch_scope.h>

#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <cstring>
#include <mutex>
#include <optional>
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

/// So many numbers from `seed`, of Chris Doty-Humphrey's sfc32 in lanes side by side. Their states are mixed to begin
/// with, so that a few of their first numbers are enough to throw away.
template <std::size_t kCount>
void fill_words(std::array<std::uint32_t, kCount>& words, std::uint64_t seed) {
  // GCC's and Clang's vectors, as wide as the processor's or split into several.
  typedef std::uint32_t Lanes __attribute__((vector_size(64)));
  constexpr std::size_t kLanes = sizeof(Lanes) / sizeof(std::uint32_t);
  constexpr std::size_t kThrownAway = 4;
  static_assert(kCount % kLanes == 0);
  Lanes a;
  Lanes b;
  Lanes c;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const std::uint64_t first = mix(seed + 2 * lane * 0x9e3779b97f4a7c15U);
    a[lane] = static_cast<std::uint32_t>(first);
    b[lane] = static_cast<std::uint32_t>(first >> 32);
    c[lane] = static_cast<std::uint32_t>(mix(seed + (2 * lane + 1) * 0x9e3779b97f4a7c15U));
  }
  for (std::uint32_t step = 0; step < kThrownAway + kCount / kLanes; ++step) {
    const Lanes number = a + b + step;
    a = b ^ (b >> 9);
    b = c + (c << 3);
    c = ((c << 21) | (c >> 11)) + number;
    std::memcpy(&words[step < kThrownAway ? 0 : (step - kThrownAway) * kLanes], &number, sizeof(number));
  }
}

/// Seeds in a small part of the time of LibTorch's set_current_seed(), which is half of a small batch's: that makes
/// each of the Mersenne Twister's 624 words from the one before. The caller holds the mutex.
void set_seed(at::CPUGeneratorImpl& generator, std::uint64_t seed) {
  at::mt19937_data_pod data{};
  data.seed_ = seed;
  data.left_ = 1;  // words are made of the state before the first is taken
  data.seeded_ = true;
  fill_words(data.state_, seed);
  data.state_[0] |= 0x80000000U;  // a state of zeros would give nothing else
  at::mt19937 engine = generator.engine();
  engine.set_data(data);
  generator.set_engine(engine);
  generator.set_next_float_normal_sample({});
  generator.set_next_double_normal_sample({});
}

/// What a generator was. Copies its engine, as a clone of the generator would be seeded first.
class GeneratorState {
 public:
  /// Locks the default generator.
  static GeneratorState of_default() {
    auto* generator = default_generator();
    const std::lock_guard<std::mutex> lock(generator->mutex_);
    return GeneratorState(*generator);
  }

  /// Locks the default generator, which is what it was from here on.
  void put_back() const {
    auto* generator = default_generator();
    const std::lock_guard<std::mutex> lock(generator->mutex_);
    generator->set_engine(engine_);
    generator->set_next_float_normal_sample(float_sample_);
    generator->set_next_double_normal_sample(double_sample_);
  }

 private:
  explicit GeneratorState(at::CPUGeneratorImpl& generator)
      : engine_(generator.engine()),
        float_sample_(generator.next_float_normal_sample()),
        double_sample_(generator.next_double_normal_sample()) {}

  at::mt19937 engine_;
  // LibTorch's optional or the standard's, depending on its version.
  decltype(std::declval<at::CPUGeneratorImpl&>().next_float_normal_sample()) float_sample_;
  decltype(std::declval<at::CPUGeneratorImpl&>().next_double_normal_sample()) double_sample_;
};

}  // namespace

struct BatchScope::Outer {
  CurrentBatch batch;
  BatchArena* arena = nullptr;
  BatchPool* pool = nullptr;
  std::optional<GeneratorState> default_generator;
  bool shares_saved = false;
};

namespace {

/// What torch's default generator was before the batches that the threads of this process make in their training loops:
/// saved by the first of such batches at once, put back by the last, as between them it is nobody's.
struct SavedGenerator {
  std::mutex mutex;
  std::size_t scopes = 0;
  std::optional<GeneratorState> generator;
};

/// Never destroyed, as threads may make batches while the process ends.
SavedGenerator& saved_generator() {
  static auto* const saved = new SavedGenerator;
  return *saved;
}

}  // namespace

BatchScope::BatchScope(const BatchId& id, BatchArena* arena, Workplace place, BatchPool* pool) {
  if (span_.isActive()) {
    span_.before("torchfeed::make_batch");
  }
  auto& batch = current_batch();
  const bool restore = place == Workplace::kTrainer;
  if (restore || batch.active) {
    outer_ = std::make_unique<Outer>();
    outer_->arena = current_arena();
    outer_->pool = current_pool();
    if (batch.active) {
      outer_->batch = std::exchange(batch, {});
    }
  }
  batch.active = true;
  current_arena() = arena;
  current_pool() = pool;
  if (restore && outer_->batch.active) {
    outer_->default_generator = GeneratorState::of_default();  // a batch within a batch: back to that one's
  } else if (restore) {
    outer_->shares_saved = true;
    auto& saved = saved_generator();
    const std::lock_guard<std::mutex> lock(saved.mutex);
    if (saved.scopes++ == 0) {
      saved.generator = GeneratorState::of_default();
    }
  }
  reseed(id, place);
}

BatchScope::~BatchScope() {
  current_batch().active = false;
  current_arena() = nullptr;
  current_pool() = nullptr;
  if (!outer_) {
    return;
  }
  current_arena() = outer_->arena;
  current_pool() = outer_->pool;
  if (outer_->batch.active) {
    current_batch() = std::move(outer_->batch);
  }
  if (outer_->default_generator) {
    outer_->default_generator->put_back();
  }
  if (outer_->shares_saved) {
    auto& saved = saved_generator();
    const std::lock_guard<std::mutex> lock(saved.mutex);
    if (--saved.scopes == 0) {
      saved.generator->put_back();
      saved.generator.reset();
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
  set_seed(*generator, mix(batch.seed));
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
    loader::set_seed(*static_cast<at::CPUGeneratorImpl*>(batch.generator.unsafeGetGeneratorImpl()), batch.seed);
    batch.seeded = true;
  }
  return batch.generator;
}

}  // namespace torchfeed
