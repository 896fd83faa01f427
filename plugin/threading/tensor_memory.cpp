#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <torchfeed/plugin/threading/tensor_memory.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <utility>

namespace torchfeed::threading {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
constexpr bool kAddressSanitizer = false;
#endif

/// In front of a tensor's memory, which stays aligned as LibTorch aligns it.
struct alignas(64) Block {
  std::uint32_t size_class;
  Block* next;
};
static_assert(sizeof(Block) == 64);

/// Of blocks that go back to LibTorch's allocator.
constexpr std::uint32_t kUnkept = ~std::uint32_t{0};
/// Above this size, which no machine has, LibTorch's allocator says what is wrong.
constexpr size_t kLargest = size_t{1} << 46;

/// Four sizes to each power of two from 64 on, so that at most a fifth of a block is not used.
std::uint32_t size_class(size_t bytes) {
  const size_t last = bytes - 1;
  const auto power = static_cast<unsigned>(std::bit_width(last)) - 1;  // of the largest power of two in it
  return (power - 6) * 4 + static_cast<std::uint32_t>(last >> (power - 2)) - 4;
}

/// The size of a class's blocks.
constexpr size_t size_of(std::uint32_t size_class) { return (size_t{size_class % 4} + 5) << (size_class / 4 + 4); }

constexpr std::uint32_t kClasses = 40 * 4;
static_assert(size_of(kClasses - 1) == kLargest);
/// Of blocks up to 64 KiB a thread keeps so many bytes at hand.
constexpr std::uint32_t kSmallClasses = 10 * 4;
static_assert(size_of(kSmallClasses - 1) == 64 * 1024);
constexpr size_t kAtHand = size_t{4} << 20;

void give_back(Block* block) { c10::GetDefaultCPUAllocator()->raw_deallocate(block); }

void give_back_all(Block* list) {
  while (list != nullptr) give_back(std::exchange(list, list->next));
}

/// The blocks that all threads share. Never destroyed, as tensors may be freed while the process ends.
class Store {
 public:
  Block* take(std::uint32_t size_class) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Shelf& shelf = shelves_[size_class];
    if (shelf.blocks == nullptr) return nullptr;
    idle_ -= size_of(size_class);
    shelf.least = std::min(shelf.least, --shelf.count);
    return std::exchange(shelf.blocks, shelf.blocks->next);
  }

  void put(Block* block) {
    Block* unwanted = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const size_t size = size_of(block->size_class);
      if (idle_ + size > limit_) {
        block->next = nullptr;
        unwanted = block;
      } else {
        Shelf& shelf = shelves_[block->size_class];
        block->next = std::exchange(shelf.blocks, block);
        ++shelf.count;
        idle_ += size;
      }
      if (const auto now = std::chrono::steady_clock::now(); now - cleared_ >= patience_) {
        cleared_ = now;
        for (std::uint32_t i = 0; i < kClasses; ++i) take_from(i, shelves_[i].least, unwanted);
      }
    }
    give_back_all(unwanted);
  }

  /// All of it. Returns whether there was any.
  bool clear() {
    Block* unwanted = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (std::uint32_t i = 0; i < kClasses; ++i) take_from(i, shelves_[i].count, unwanted);
    }
    give_back_all(unwanted);
    return unwanted != nullptr;
  }

  void set_limit(std::uint64_t limit, std::chrono::milliseconds patience) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = limit;
    patience_ = patience;
    cleared_ = std::chrono::steady_clock::now();
  }
  TensorMemory memory() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {limit_, idle_};
  }

  void before_fork() { mutex_.lock(); }
  void after_fork_in_parent() { mutex_.unlock(); }
  void after_fork_in_child() {
    limit_ = idle_ = 0;
    shelves_ = {};  // the parent's: they are not written to, and so not copied
    mutex_.unlock();
  }

 private:
  struct Shelf {
    Block* blocks = nullptr;
    std::uint32_t count = 0;
    /// The least count since the shelves were cleared: so many blocks nobody needed.
    std::uint32_t least = 0;
  };

  /// Moves `count` of a shelf's blocks to the front of `list`, under the lock.
  void take_from(std::uint32_t size_class, std::uint32_t count, Block*& list) {
    Shelf& shelf = shelves_[size_class];
    for (; count > 0; --count) {
      Block* const block = shelf.blocks;
      shelf.blocks = block->next;
      block->next = std::exchange(list, block);
      --shelf.count;
      idle_ -= size_of(size_class);
    }
    shelf.least = shelf.count;
  }

  std::mutex mutex_;
  std::array<Shelf, kClasses> shelves_{};
  std::uint64_t limit_ = 0;
  std::uint64_t idle_ = 0;
  std::chrono::milliseconds patience_{};
  std::chrono::steady_clock::time_point cleared_;
};

/// Whether blocks are kept. Read without the lock: a block that is late goes to the store, which gives it back.
std::atomic<bool> keeping{false};

Store& store() {
  static Store* const value = [] {
    auto* const made = new Store;
    pthread_atfork([] { store().before_fork(); }, [] { store().after_fork_in_parent(); },
                   [] {
                     store().after_fork_in_child();
                     keeping = false;
                   });
    return made;
  }();
  return *value;
}

/// Small blocks that the calling thread has at hand, without a lock.
struct AtHand {
  std::array<Block*, kSmallClasses> blocks{};
  size_t bytes = 0;

  ~AtHand();
};

thread_local bool thread_ends = false;
thread_local AtHand at_hand;

AtHand::~AtHand() {
  thread_ends = true;
  for (Block* list : blocks)
    while (list != nullptr) store().put(std::exchange(list, list->next));
}

void put_down(void* memory) {
  if (memory == nullptr) return;
  Block* const block = static_cast<Block*>(memory) - 1;
  const std::uint32_t kind = block->size_class;
  if (kind == kUnkept || !keeping.load(std::memory_order_relaxed)) return give_back(block);
  if (kind < kSmallClasses && !thread_ends && at_hand.bytes + size_of(kind) <= kAtHand) {
    block->next = std::exchange(at_hand.blocks[kind], block);
    at_hand.bytes += size_of(kind);
  } else {
    store().put(block);
  }
}

/// One that was put down; null without.
Block* pick_up(std::uint32_t kind) {
  if (kind < kSmallClasses && !thread_ends) {
    if (Block* const block = at_hand.blocks[kind]) {
      at_hand.blocks[kind] = block->next;
      at_hand.bytes -= size_of(kind);
      return block;
    }
  }
  return store().take(kind);
}

Block* make(size_t bytes, std::uint32_t kind) {
  void* memory = nullptr;
  try {
    memory = c10::GetDefaultCPUAllocator()->raw_allocate(bytes);
  } catch (const c10::Error&) {
    if (!store().clear()) throw;
    memory = c10::GetDefaultCPUAllocator()->raw_allocate(bytes);
  }
  return new (memory) Block{kind, nullptr};
}

/// Stands in front of LibTorch's default allocator. LibTorch 2.2 made allocate() one that may change the allocator, and
/// 2.3 added copy_data(): here are both forms, and each version overrides its own.
class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) const { return provide(bytes); }
  c10::DataPtr allocate(size_t bytes) { return provide(bytes); }
  c10::DeleterFnPtr raw_deleter() const { return &put_down; }
  void copy_data(void* to, const void* from, std::size_t bytes) const { std::memcpy(to, from, bytes); }

 private:
  static c10::DataPtr provide(size_t bytes) {
    if (bytes > kLargest - sizeof(Block)) return c10::GetDefaultCPUAllocator()->allocate(bytes);
    Block* block = nullptr;
    if (bytes > 0) {
      const size_t size = bytes + sizeof(Block);
      const std::uint32_t kind = size_class(size);
      if (!keeping.load(std::memory_order_relaxed) || c10::memoryProfilingEnabled()) {
        block = make(size, kUnkept);
      } else if (block = pick_up(kind); block == nullptr) {
        block = make(size_of(kind), kind);
      }
    }
    void* const memory = block != nullptr ? block + 1 : nullptr;
    return {memory, memory, &put_down, c10::Device(c10::DeviceType::CPU)};
  }
};

KeepingAllocator& allocator() {
  static auto* const value = new KeepingAllocator;
  return *value;
}

}  // namespace

TensorMemory tensor_memory() {
  return keeping && c10::GetCPUAllocator() == &allocator() ? store().memory() : TensorMemory{};
}

std::string keep_tensor_memory(std::uint64_t limit, std::chrono::milliseconds patience) {
  c10::Allocator* const current = c10::GetCPUAllocator();
  if (limit == 0) {
    keeping = false;
    if (current == &allocator()) c10::SetCPUAllocator(c10::GetDefaultCPUAllocator());
    store().set_limit(0, patience);
    for (Block*& list : at_hand.blocks) give_back_all(std::exchange(list, nullptr));
    at_hand.bytes = 0;
    store().clear();
    return "";
  }
  if (kAddressSanitizer) return "AddressSanitizer watches it";
  if (current != &allocator() && current != c10::GetDefaultCPUAllocator())
    return "the program has an allocator of its own";
  store().set_limit(limit, patience);
  c10::SetCPUAllocator(&allocator());
  if (c10::GetCPUAllocator() != &allocator()) {
    store().set_limit(0, patience);
    return "LibTorch kept its allocator";
  }
  keeping = true;
  return "";
}

}  // namespace torchfeed::threading
