#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <random>
#include <string>
#include <vector>

#include "chaos/chaos_dataset.h"

namespace torchfeed::chaos {

/// One loader's settings, and how it is disturbed.
struct Round {
  std::uint64_t seed = 0;
  std::int64_t workers = 1;
  bool in_order = true;
  bool persistent = true;
  std::size_t batch_size = 1;
  std::size_t prefetch_factor = 2;
  std::size_t epochs = 1;
  std::size_t kept = 0;             ///< batches that the loop keeps at a time, to see that nobody writes to them
  std::uint32_t breaks_one_in = 0;  ///< batches, on average, after which an epoch is left early; 0: never
  std::int64_t pause_microseconds = 1;
  ChaosDataset::Options dataset;
};

/// Draws a round's settings.
Round random_round(std::mt19937_64& random, const std::vector<std::int64_t>& workers);

/// All of them, for whoever wants to see a fault again.
std::ostream& operator<<(std::ostream& out, const Round& round);

/// What happened so far.
struct Tally {
  std::uint64_t kills = 0;
  std::uint64_t restarts = 0;
  std::uint64_t batches = 0;
  std::uint64_t epochs = 0;
  std::uint64_t rounds = 0;
  std::uint64_t trainers = 0;
  std::uint64_t given_up = 0;  ///< batches that ended in the WorkerError that three deaths with one batch end in
  std::uint64_t lost = 0;
  std::uint64_t doubled = 0;
  std::uint64_t wrong = 0;
  std::uint64_t left = 0;
  std::vector<std::string> faults;  ///< a sentence for each fault, the first ones only

  bool clean() const { return lost == 0 && doubled == 0 && wrong == 0 && left == 0; }
  void fault(std::uint64_t& count, const Round& round, const std::string& what);
};

/// Runs a loader that is disturbed, next to one without workers, and compares. `go_on` is asked after each batch.
void run_round(const Round& round, Board& board, Tally& tally, const std::function<bool()>& go_on);

/// Runs a trainer in a process of its own and ends it at a random moment; whatever it started has to end too.
/// The caller has to be the child subreaper, prctl(2), and must have no other children.
void kill_a_trainer(const Round& round, Board& board, std::mt19937_64& random, Tally& tally);

}  // namespace torchfeed::chaos
