#pragma once

#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/worker_info.h>

#include <torch/data/datasets/base.h>
#include <torch/data/example.h>
#include <torch/torch.h>

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <vector>

namespace torchfeed::chaos {

/// What trainer and workers tell each other past the loader, in memory that they share.
class Board {
 public:
  static constexpr std::size_t kMostSamples = 4096;

  Board() {
    void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::system_error(errno, std::generic_category(), "mmap");
    }
    shared_ = new (memory) Shared{};
  }
  ~Board() { ::munmap(shared_, sizeof(Shared)); }
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// Deaths so far that somebody meant to happen.
  std::atomic<std::uint64_t>& kills() { return shared_->kills; }
  /// How often workers began, in this epoch, the batch that begins with this sample.
  std::atomic<std::uint32_t>& begun(std::size_t sample) { return shared_->begun[sample]; }

  void begin_epoch() {
    for (auto& count : shared_->begun) {
      count = 0;
    }
  }

 private:
  struct Shared {
    std::atomic<std::uint64_t> kills;
    std::atomic<std::uint32_t> begun[kMostSamples];
  };
  Shared* shared_;
};

/// Batches whose every value depends on their indices, on generator() and on torch's default generator, in memory of
/// the slot or in ordinary memory. A worker may end itself at any point of making one.
class ChaosDataset
    : public torch::data::datasets::BatchDataset<ChaosDataset, torch::data::Example<>, std::vector<std::size_t>> {
 public:
  struct Options {
    std::size_t samples = 0;
    std::int64_t columns = 1;        ///< at most, of a batch's data
    std::uint32_t one_death_in = 0;  ///< batches, on average; 0: workers do not end themselves
  };

  ChaosDataset(const Options& options, Board& board) : options_(options), board_(&board) {}

  /// data: [B, 1 to `columns`] float32; target: [B] int64, the indices.
  torch::data::Example<> get_batch(std::vector<std::size_t> indices) override {
    const std::size_t key = indices.at(0);
    const int point = death_point(key);
    die_at(point, 0);
    const auto rows = static_cast<std::int64_t>(indices.size());
    const std::int64_t columns = 1 + static_cast<std::int64_t>(key * 7919) % options_.columns;
    torch::Tensor data = key % 2 == 0 ? empty_batch({rows, columns}, torch::kFloat32) : torch::empty({rows, columns});
    die_at(point, 1);
    data.copy_(torch::rand({rows, columns}, generator()));
    die_at(point, 2);
    data.add_(torch::rand({rows, 1}));
    torch::Tensor target = key % 3 == 0 ? empty_batch({rows}, torch::kInt64) : torch::empty({rows}, torch::kInt64);
    for (std::int64_t row = 0; row < rows; ++row) {
      target.data_ptr<std::int64_t>()[row] = static_cast<std::int64_t>(indices[static_cast<std::size_t>(row)]);
    }
    data.add_(target.unsqueeze(1));
    die_at(point, 3);
    return {data, target};
  }

  torch::optional<std::size_t> size() const override { return options_.samples; }

 private:
  static constexpr int kPoints = 4;

  /// Where this worker is to die in this batch; -1 for nowhere. At most one worker a batch does so by itself, so that
  /// three deaths with the same batch in hand stay rare.
  int death_point(std::size_t key) const {
    if (!worker_info()) {
      return -1;
    }
    const bool first = board_->begun(key).fetch_add(1) == 0;
    // Neither of the batch's generators may be touched for it.
    auto chance = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    chance = (chance ^ static_cast<std::uint64_t>(::getpid())) * 0x9e3779b97f4a7c15U >> 32;
    const bool dies = first && options_.one_death_in != 0 && chance % options_.one_death_in == 0;
    return dies ? static_cast<int>(chance / options_.one_death_in % kPoints) : -1;
  }

  void die_at(int point, int here) const {
    if (point != here) {
      return;
    }
    constexpr int kSignals[] = {SIGKILL, SIGSEGV, SIGABRT};
    const auto number = board_->kills().fetch_add(1);
    ::raise(kSignals[number % std::size(kSignals)]);
  }

  Options options_;
  Board* board_;
};

}  // namespace torchfeed::chaos
