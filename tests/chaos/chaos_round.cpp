#include "chaos/chaos_round.h"

#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>
#include <thread>
#include <unordered_map>

#include "chaos/worker_killer.h"
#include "support/leftovers.h"

namespace torchfeed::chaos {
namespace {

using Clock = std::chrono::steady_clock;
using Batch = torch::data::Example<>;
using Loader = DataLoader<ChaosDataset, samplers::ShuffleSampler>;

constexpr std::chrono::seconds kPatience{10};
// Far beyond what a batch takes, however often its workers die: who waits so long waits for nothing.
constexpr std::chrono::seconds kStalled{60};
constexpr std::size_t kMostFaults = 20;

std::unique_ptr<Loader> make_loader(const Round& round, Board& board, std::int64_t workers) {
  return make_data_loader(ChaosDataset(round.dataset, board),
                          samplers::ShuffleSampler(round.dataset.samples, round.seed),
                          DataLoaderOptions(round.batch_size)
                              .num_workers(workers)
                              .in_order(round.in_order)
                              .persistent_workers(round.persistent)
                              .prefetch_factor(round.prefetch_factor)
                              .max_worker_restarts(std::size_t{1} << 30)
                              .timeout(std::chrono::milliseconds(kStalled))
                              .seed(round.seed));
}

std::size_t first_index(const Batch& batch) {
  return static_cast<std::size_t>(batch.target.data_ptr<std::int64_t>()[0]);
}

bool same(const Batch& a, const Batch& b) { return torch::equal(a.data, b.data) && torch::equal(a.target, b.target); }

/// What the epochs of a round hold when nobody disturbs them.
class Expectation {
 public:
  Expectation(const Round& round, Board& board) : epochs_(round.epochs) {
    const auto loader = make_loader(round, board, 0);
    for (auto& epoch : epochs_) {
      for (auto& batch : *loader) {
        epoch.push_back(batch);
      }
    }
  }
  const std::vector<Batch>& epoch(std::size_t number) const { return epochs_[number]; }

 private:
  std::vector<std::vector<Batch>> epochs_;
};

/// A disturbed epoch, compared batch by batch.
class EpochCheck {
 public:
  EpochCheck(const Round& round, Board& board, const std::vector<Batch>& expected, Tally& tally)
      : round_(round),
        board_(board),
        expected_(expected),
        tally_(tally),
        seen_(expected.size(), false),
        kills_(board.kills()) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      positions_[first_index(expected[i])] = i;
    }
  }

  /// The position of the batch in the epoch; none if there is no such batch.
  std::optional<std::size_t> arrived(const Batch& batch) {
    ++tally_.batches;
    const bool sound = batch.target.dim() == 1 && batch.target.numel() > 0;
    const auto found = sound ? positions_.find(first_index(batch)) : positions_.end();
    if (found == positions_.end() || !same(batch, expected_[found->second])) {
      tally_.fault(tally_.wrong, round_, "a batch differs");
      return std::nullopt;
    }
    count(found->second);
    return found->second;
  }

  /// A batch that killed three workers is given up by design. Here nobody kills for a batch's sake, so that three
  /// workers must really have died since the epoch began, maybe before any of them was in sight of the dataset: a new
  /// worker takes its first batch at once and then touches pages that it has to copy first, for some 100 us before
  /// get_batch. One of them may have been counted before the epoch began, as a death is counted before the blow.
  void failed(const WorkerError& error) {
    const std::uint64_t kills = board_.kills() - kills_;
    const bool poison = error.signal() != 0 && error.batch() < expected_.size() && kills + 1 >= 3 * (given_up_ + 1);
    if (!poison) {
      tally_.fault(tally_.wrong, round_, error.what());
      return;
    }
    ++given_up_;
    ++tally_.given_up;
    count(error.batch());
  }

  /// The epoch came to its end by itself.
  void ended() {
    const auto missing = std::count(seen_.begin(), seen_.end(), false);
    for (auto i = missing; i > 0; --i) {
      tally_.fault(tally_.lost, round_, "a batch never came");
    }
  }

 private:
  void count(std::size_t position) {
    if (seen_[position]) {
      tally_.fault(tally_.doubled, round_, "a batch came twice");
    } else if (round_.in_order && position != next_) {
      tally_.fault(tally_.wrong, round_, "a batch came out of order");
    }
    seen_[position] = true;
    next_ = position + 1;
  }

  const Round& round_;
  Board& board_;
  const std::vector<Batch>& expected_;
  Tally& tally_;
  std::vector<bool> seen_;
  std::unordered_map<std::size_t, std::size_t> positions_;  // by first index
  const std::uint64_t kills_;
  std::uint64_t given_up_ = 0;
  std::size_t next_ = 0;
};

/// Batches that the training loop holds on to, beside what they have to be.
class KeptBatches {
 public:
  KeptBatches(const Round& round, Tally& tally) : round_(round), tally_(tally) {}

  void keep(const Batch& batch, const Batch& expected) {
    kept_.emplace_back(batch, expected);
    while (kept_.size() > round_.kept) {
      drop_first();
    }
  }
  void drop_all() {
    while (!kept_.empty()) {
      drop_first();
    }
  }

 private:
  void drop_first() {
    if (!same(kept_.front().first, kept_.front().second)) {
      tally_.fault(tally_.wrong, round_, "a batch that was kept has changed");
    }
    kept_.pop_front();
  }

  const Round& round_;
  Tally& tally_;
  std::deque<std::pair<Batch, Batch>> kept_;
};

/// Steps over the epoch's batches, errors and all. A first batch that fails leaves torch's iterator as it was before
/// it.
class Steps {
 public:
  explicit Steps(Loader& loader) : loader_(loader), iterator_(loader.begin()) {}

  /// The next batch; null at the end. Throws what the loader throws.
  const Batch* next() {
    if (started_) {
      ++iterator_;
    }
    const bool end = iterator_ == loader_.end();
    started_ = true;
    return end ? nullptr : &*iterator_;
  }

 private:
  Loader& loader_;
  torch::data::Iterator<Batch> iterator_;
  bool started_ = false;
};

/// Whether the loader can go on with another epoch.
bool run_epoch(Loader& loader, const Round& round, EpochCheck& check, const std::vector<Batch>& expected,
               KeptBatches& kept, std::mt19937_64& random, Tally& tally, const std::function<bool()>& go_on) {
  Steps steps(loader);
  while (go_on()) {
    try {
      const Batch* batch = steps.next();
      if (batch == nullptr) {
        check.ended();
        ++tally.epochs;
        return true;
      }
      if (const auto position = check.arrived(*batch)) {
        kept.keep(*batch, expected[*position]);
      }
    } catch (const WorkerError& error) {
      const auto before = tally.wrong;
      check.failed(error);
      if (tally.wrong != before) {
        return false;
      }
    } catch (const std::exception& error) {
      tally.fault(tally.wrong, round, error.what());
      return false;
    }
    if (round.breaks_one_in != 0 && random() % round.breaks_one_in == 0) {
      return true;
    }
  }
  return false;
}

void check_leftovers(const testing::Resources& before, const Round& round, Tally& tally) {
  const auto deadline = Clock::now() + kPatience;
  auto left = testing::leftovers(before, testing::current_resources());
  while (!left.empty() && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    left = testing::leftovers(before, testing::current_resources());
  }
  for (const auto& sentence : left) {
    tally.fault(tally.left, round, sentence);
  }
}

/// Epochs without end, until somebody ends the process. A batch that is given up is no reason to end.
[[noreturn]] void be_a_trainer(const Round& round, Board& board) noexcept {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) {
    const auto loader = make_loader(round, board, round.workers);
    const WorkerKiller killer(board.kills(), round.seed, std::chrono::microseconds(round.pause_microseconds));
    try {
      for (std::size_t epoch = 0; epoch < round.epochs; ++epoch) {
        board.begin_epoch();
        for (auto& batch : *loader) {
          static_cast<void>(batch);
        }
      }
    } catch (const WorkerError& error) {
      if (error.signal() == 0) {
        std::fprintf(stderr, "loader_chaos: a trainer: %s\n", error.what());
        std::_Exit(1);
      }
    }
  }
}

}  // namespace

Round random_round(std::mt19937_64& random, const std::vector<std::int64_t>& workers) {
  const auto draw = [&](std::size_t from, std::size_t to) { return from + random() % (to - from + 1); };
  constexpr std::int64_t kPauses[] = {2000, 5000, 15000, 50000};
  Round round;
  round.seed = random();
  round.workers = workers[random() % workers.size()];
  round.in_order = random() % 2 == 0;
  round.persistent = random() % 3 != 0;
  round.batch_size = draw(1, 40);
  round.prefetch_factor = draw(1, 4);
  round.epochs = draw(1, 5);
  round.kept = random() % 2 == 0 ? 0 : draw(1, 30);
  round.breaks_one_in = random() % 4 == 0 ? 100 : 0;
  round.pause_microseconds = kPauses[random() % std::size(kPauses)];
  round.dataset.samples = std::min(Board::kMostSamples, round.batch_size * draw(50, 200));
  round.dataset.columns = static_cast<std::int64_t>(random() % 4 == 0 ? draw(1, 2000) : draw(1, 100));
  round.dataset.one_death_in = random() % 3 == 0 ? 0 : static_cast<std::uint32_t>(draw(20, 200));
  return round;
}

std::ostream& operator<<(std::ostream& out, const Round& round) {
  return out << "seed " << round.seed << ", " << round.workers << " workers, " << (round.in_order ? "in" : "out of")
             << " order, " << (round.persistent ? "" : "not ") << "persistent, batch_size " << round.batch_size
             << ", prefetch_factor " << round.prefetch_factor << ", " << round.epochs << " epochs of "
             << round.dataset.samples << " samples, at most " << round.dataset.columns << " columns, " << round.kept
             << " kept, left early after one batch in " << round.breaks_one_in << ", a kill in "
             << round.pause_microseconds << " us and in " << round.dataset.one_death_in << " batches";
}

void Tally::fault(std::uint64_t& count, const Round& round, const std::string& what) {
  ++count;
  if (faults.size() < kMostFaults) {
    std::ostringstream sentence;
    sentence << what << " (round " << rounds << ": " << round << ")";
    faults.push_back(sentence.str());
  }
}

void run_round(const Round& round, Board& board, Tally& tally, const std::function<bool()>& go_on) {
  const Expectation expectation(round, board);
  const auto before = testing::current_resources();
  const std::uint64_t kills = board.kills();
  std::mt19937_64 random(round.seed);
  {
    KeptBatches kept(round, tally);
    auto loader = make_loader(round, board, round.workers);
    const WorkerKiller killer(board.kills(), random(), std::chrono::microseconds(round.pause_microseconds));
    bool usable = true;
    for (std::size_t number = 0; usable && number < round.epochs; ++number) {
      board.begin_epoch();
      const auto& expected = expectation.epoch(number);
      EpochCheck check(round, board, expected, tally);
      usable = run_epoch(*loader, round, check, expected, kept, random, tally, go_on);
    }
    const std::uint64_t restarts = loader->stats().worker_restarts;
    if (restarts > board.kills() - kills) {
      tally.fault(tally.wrong, round, "more workers were replaced than killed");
    }
    tally.restarts += restarts;
    if (random() % 2 == 0) {
      loader.reset();  // before the tensors go
    }
    kept.drop_all();
  }
  tally.kills += board.kills() - kills;
  ++tally.rounds;
  check_leftovers(before, round, tally);
}

void kill_a_trainer(const Round& round, Board& board, std::mt19937_64& random, Tally& tally) {
  const auto before = testing::current_resources();
  const int signal = random() % 2 == 0 ? SIGKILL : SIGABRT;
  const std::chrono::microseconds life(random() % 400000);
  const pid_t trainer = ::fork();
  if (trainer == 0) {
    be_a_trainer(round, board);
  }
  if (trainer < 0) {
    throw std::system_error(errno, std::generic_category(), "fork");
  }
  std::this_thread::sleep_for(life);
  ::kill(trainer, signal);
  int status = 0;
  ::waitpid(trainer, &status, 0);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != signal) {
    tally.fault(tally.wrong, round, "a trainer ended before its time");
  }
  // Whatever it left is this process's child now.
  const auto deadline = Clock::now() + kPatience;
  while (::waitpid(-1, nullptr, WNOHANG) >= 0 && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ++tally.trainers;
  check_leftovers(before, round, tally);
  // What was reported must not go on for ever, nor be reported again.
  for (const pid_t left : listed_children(::getpid())) {
    ::kill(left, SIGKILL);
    ::waitpid(left, nullptr, 0);
  }
}

}  // namespace torchfeed::chaos
