// What a batch's way through the ring of slots costs, without the batch.
//   build/bin/ring_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
#include <torchfeed/plugin/loader/slot_ring.h>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <thread>

namespace {

using namespace std::chrono_literals;
using torchfeed::loader::SlotRing;
using torchfeed::loader::SlotState;

constexpr std::uint64_t kBudget = std::uint64_t{8} << 20;

/// All steps of a slot by one thread that nobody waits for: post, claim, finish, lease, free. range(0) is the number of
/// slots, all of which are looked at.
void steps(benchmark::State& state) {
  SlotRing ring(static_cast<std::uint32_t>(state.range(0)), kBudget, 0);
  ring.header().target_workers = 1;
  std::uint64_t ticket = 0;
  for (auto _ : state) {
    const std::uint32_t index = ring.find_free(0).value();
    ring.post(index, ++ticket);
    ring.finish(ring.wait_for_work(0).value(), SlotState::kDone);
    ring.lease(index);
    ring.free(index);
  }
}
BENCHMARK(steps)->Arg(2)->Arg(8)->Arg(64);

/// A worker in another thread does nothing but finish requests. The time is that of a batch, with range(0) requests
/// under way at once: with 1 that is a round trip. `spins` as where there are cores for all, or none, so that both
/// sleep and are woken.
void with_a_worker(benchmark::State& state, std::uint32_t spins) {
  const auto requests = static_cast<std::uint32_t>(state.range(0));
  SlotRing ring(requests, kBudget, spins);
  ring.header().target_workers = 1;
  std::thread worker([&ring] {
    while (const auto index = ring.wait_for_work(0)) ring.finish(*index, SlotState::kDone);
  });
  std::deque<std::uint32_t> under_way;
  std::uint64_t ticket = 0;
  const auto post = [&] {
    under_way.push_back(ring.find_free(0).value());
    ring.post(under_way.back(), ++ticket);
  };
  while (under_way.size() < requests) post();
  for (auto _ : state) {
    const std::uint32_t index = under_way.front();
    while (!ring.has_result(index)) ring.wait_for_result(index, 0, 1s);
    ring.free(index);
    under_way.pop_front();
    post();
  }
  ring.header().stop = 1;
  ring.wake_all_workers();
  worker.join();
}
BENCHMARK_CAPTURE(with_a_worker, spinning, 200)->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(with_a_worker, sleeping, 0)->Arg(1)->Arg(4)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
