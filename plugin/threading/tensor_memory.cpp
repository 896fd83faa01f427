#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <torchfeed/plugin/threading/malloc_learning.h>
#include <torchfeed/plugin/threading/stay_loaded.h>
#include <torchfeed/plugin/threading/tensor_memory.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <utility>

namespace torchfeed::threading {
namespace {

/// What is kept lies in lists, each linked through the memory itself. That has no header: malloc tells its size, so
/// that a block may come from LibTorch's allocator and go to this one, and the other way round.
struct Block {
  Block* next;
};

/// Four sizes to each power of two from 256 on, so that at most a fifth of a block is not used. Below they are 64 apart
/// too: glibc may give 40 bytes more than it was asked for, which must not make a block one of the next size.
std::uint32_t size_class(size_t bytes) {
  const size_t last = bytes - 1;
  if (last < 256) return static_cast<std::uint32_t>(last / 64);
  const auto power = static_cast<unsigned>(std::bit_width(last)) - 1;  // of the largest power of two in it
  return (power - 8) * 4 + static_cast<std::uint32_t>(last >> (power - 2));
}

/// The size of a class's blocks.
constexpr size_t size_of(std::uint32_t kind) {
  return kind < 4 ? (kind + 1) * size_t{64} : size_t{kind % 4 + 5} << (kind / 4 + 5);
}

constexpr std::uint32_t kClasses = 39 * 4;
/// More than any machine has.
constexpr size_t kLargest = size_t{1} << 46;
static_assert(size_of(kClasses - 1) == kLargest && size_of(0) >= sizeof(Block));
/// Of blocks up to 64 KiB a thread keeps so many bytes at hand.
constexpr std::uint32_t kSmallClasses = 9 * 4;
static_assert(size_of(kSmallClasses - 1) == 64 * 1024);
constexpr size_t kAtHand = size_t{4} << 20;
/// It looks after so many frees which of them it needs.
constexpr std::uint32_t kFreesBetweenLooks = 1024;

/// New memory after which it is asked again how much is free, and what is to stay so.
constexpr size_t kNewMemoryBetweenLooks = size_t{256} << 20;
constexpr size_t kMemoryToLeave = size_t{512} << 20;

/// The most that may lie idle; 0: nothing is kept. Written under the store's lock, and read without: a block that is
/// late goes to the store, which looks again.
std::atomic<std::uint64_t> limit{0};

void give_back(void* memory) {
  static const c10::DeleterFnPtr libtorchs = c10::GetDefaultCPUAllocator()->raw_deleter();
  libtorchs(memory);
}

void give_back_all(Block* list) {
  while (list != nullptr) give_back(std::exchange(list, list->next));
}

/// The blocks that all threads share. Never destroyed, as tensors may be freed while the process ends.
class Store {
 public:
  /// Held while somebody changes what is kept.
  std::mutex changing;

  Block* take(std::uint32_t kind) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Shelf& shelf = shelves_[kind];
    if (shelf.blocks == nullptr) return nullptr;
    idle_ -= size_of(kind);
    shelf.least = std::min(shelf.least, --shelf.count);
    return std::exchange(shelf.blocks, shelf.blocks->next);
  }

  /// Puts a list of blocks, which may be empty, on the shelf, and gives back what was not needed for a while.
  void put(Block* list, std::uint32_t kind) {
    const auto now = std::chrono::steady_clock::now();
    Block* unwanted = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (list != nullptr) {
        Block* const block = std::exchange(list, list->next);
        const bool fits = idle_ + size_of(kind) <= limit;
        Block*& head = fits ? shelves_[kind].blocks : unwanted;
        block->next = std::exchange(head, block);
        if (!fits) continue;
        ++shelves_[kind].count;
        idle_ += size_of(kind);
      }
      if (now - cleared_ >= patience_) {
        cleared_ = now;
        for (std::uint32_t i = 0; i < kClasses; ++i) take_from(i, shelves_[i].least, unwanted);
      }
    }
    give_back_all(unwanted);
  }

  /// Gives back all of it.
  void clear() {
    Block* unwanted = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (std::uint32_t i = 0; i < kClasses; ++i) take_from(i, shelves_[i].count, unwanted);
    }
    give_back_all(unwanted);
  }

  /// The same as memory is short: malloc would keep some.
  void clear_to_the_system() {
    clear();
#ifdef __GLIBC__
    malloc_trim(0);
#endif
  }

  /// Before new memory is asked for.
  void make_room(size_t bytes) {
    FreeMemory free_memory = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      new_bytes_ += bytes;
      if (new_bytes_ < kNewMemoryBetweenLooks || idle_ == 0) return;
      new_bytes_ = 0;
      free_memory = free_memory_;
    }
    if (const auto room = free_memory(); room && room->bytes < bytes + kMemoryToLeave) clear_to_the_system();
  }

  void set(std::uint64_t most, std::chrono::milliseconds patience, FreeMemory free_memory) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      limit = most;
      patience_ = patience;
      free_memory_ = free_memory;
      cleared_ = std::chrono::steady_clock::now();
      if (idle_ <= most) return;
    }
    clear();
  }

  TensorMemory memory() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {limit, idle_};
  }

  /// In a forked child, where nobody will use the blocks: gives up its share of their pages, so that the parent need
  /// not copy each that it writes to. Not where a thread of the parent's was at the shelves.
  void drop_pages() {
    if (!mutex_.try_lock()) return;
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    for (std::uint32_t kind = kSmallClasses; kind < kClasses; ++kind) {
      for (Block* block = shelves_[kind].blocks; block != nullptr;) {
        const auto address = reinterpret_cast<std::uintptr_t>(std::exchange(block, block->next));
        const std::uintptr_t first = (address + page - 1) / page * page;
        const std::uintptr_t end = (address + size_of(kind)) / page * page;
        if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
      }
    }
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
  void take_from(std::uint32_t kind, std::uint32_t count, Block*& list) {
    Shelf& shelf = shelves_[kind];
    for (; count > 0; --count) {
      Block* const block = std::exchange(shelf.blocks, shelf.blocks->next);
      block->next = std::exchange(list, block);
      --shelf.count;
      idle_ -= size_of(kind);
    }
    shelf.least = shelf.count;
  }

  std::mutex mutex_;
  std::array<Shelf, kClasses> shelves_{};
  std::uint64_t idle_ = 0;
  std::uint64_t new_bytes_ = 0;
  std::chrono::milliseconds patience_{};
  std::chrono::steady_clock::time_point cleared_;
  FreeMemory free_memory_ = nullptr;
};

std::atomic<Store*> current_store{nullptr};

/// A forked child has one of its own, whatever its parent's other threads were at.
Store& store() {
  static const bool ready = [] {
    current_store = new Store;
    stay_loaded();  // LibTorch calls this code for as long as the process lives
    pthread_atfork(nullptr, nullptr, [] {
      limit = 0;
      current_store.exchange(new Store)->drop_pages();
    });
    return true;
  }();
  static_cast<void>(ready);
  return *current_store;
}

thread_local bool thread_ends = false;

/// Small blocks that the calling thread has at hand, without a lock.
struct AtHand {
  std::array<Block*, kSmallClasses> lists{};
  size_t bytes = 0;
  /// A bit for each list that was taken from since the last look.
  std::uint64_t needed = 0;
  std::uint32_t frees = 0;

  ~AtHand() {
    thread_ends = true;
    hand_over(0);
  }

  void put(Block* block, std::uint32_t kind) {
    const bool full = bytes + size_of(kind) > kAtHand;
    if (full || ++frees % kFreesBetweenLooks == 0) hand_over(full ? 0 : std::exchange(needed, 0));
    block->next = std::exchange(lists[kind], block);
    bytes += size_of(kind);
  }

  Block* take(std::uint32_t kind) {
    Block* const block = lists[kind];
    if (block == nullptr) return nullptr;
    lists[kind] = block->next;
    bytes -= size_of(kind);
    needed |= std::uint64_t{1} << kind;
    return block;
  }

  /// Moves to the store all but the lists whose bits are set, and lets it see what nobody needs.
  void hand_over(std::uint64_t kept) {
    for (std::uint32_t kind = 0; kind < kSmallClasses; ++kind) {
      if (lists[kind] == nullptr || (kept >> kind & 1) != 0) continue;
      for (const Block* block = lists[kind]; block != nullptr; block = block->next) bytes -= size_of(kind);
      store().put(std::exchange(lists[kind], nullptr), kind);
    }
    store().put(nullptr, 0);
  }
};
static_assert(kSmallClasses <= 64);

thread_local AtHand at_hand;

/// Of this allocator's memory and of LibTorch's own.
void put_down(void* memory) {
  const size_t bytes = malloc_usable_size(memory);
  if (limit.load(std::memory_order_relaxed) == 0 || bytes < size_of(0) || bytes > kLargest ||
      c10::memoryProfilingEnabled())
    return give_back(memory);
  const std::uint32_t kind = size_class(bytes + 1) - 1;  // the largest that it holds
  auto* const block = static_cast<Block*>(memory);
  if (kind < kSmallClasses && !thread_ends) return at_hand.put(block, kind);
  block->next = nullptr;
  store().put(block, kind);
}

/// One that was put down; null without.
Block* pick_up(std::uint32_t kind) {
  Block* const block = kind < kSmallClasses && !thread_ends ? at_hand.take(kind) : nullptr;
  return block != nullptr ? block : store().take(kind);
}

void* make(size_t bytes, std::uint32_t kind) {
  if (kind >= kSmallClasses) store().make_room(size_of(kind));
  try {
    return c10::GetDefaultCPUAllocator()->raw_allocate(size_of(kind));
  } catch (const c10::Error&) {
    store().clear_to_the_system();
    return c10::GetDefaultCPUAllocator()->raw_allocate(bytes);
  }
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
  /// What could not be kept in its rounded size is LibTorch's own.
  static c10::DataPtr provide(size_t bytes) {
    const std::uint64_t most = limit.load(std::memory_order_relaxed);
    if (bytes == 0 || bytes > most || size_of(size_class(bytes)) > most || c10::memoryProfilingEnabled())
      return c10::GetDefaultCPUAllocator()->allocate(bytes);
    const std::uint32_t kind = size_class(bytes);
    void* memory = pick_up(kind);
    if (memory == nullptr) memory = make(bytes, kind);
    return {memory, memory, &put_down, c10::Device(c10::DeviceType::CPU)};
  }
};

KeepingAllocator& allocator() {
  static auto* const value = new KeepingAllocator;
  return *value;
}

}  // namespace

TensorMemory tensor_memory() { return c10::GetCPUAllocator() == &allocator() ? store().memory() : TensorMemory{}; }

std::string keep_tensor_memory(std::uint64_t most, std::chrono::milliseconds patience, FreeMemory free_memory) {
  const std::lock_guard<std::mutex> lock(store().changing);
  if (most > 0) {
    if (dlsym(RTLD_DEFAULT, "__asan_init") != nullptr) return "AddressSanitizer watches it";
    if (c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator()) c10::SetCPUAllocator(&allocator());
    if (c10::GetCPUAllocator() != &allocator()) return "the program has an allocator of its own";
    teach_malloc_to_keep();
  }
  store().set(std::min<std::uint64_t>(most, kLargest), patience, free_memory);
  if (most == 0 && !thread_ends) at_hand.hand_over(0);
  return "";
}

}  // namespace torchfeed::threading
