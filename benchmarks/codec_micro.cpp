// What it costs to write a batch for the trainer and to read it there.
//   build/bin/codec_micro --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// The time is that of both together, in one process. With _in_slot tensors are in the slot already, as empty_batch and
// Stack make them, and only described; with _copied they come from elsewhere and are copied once, into the slot.
// bytes_per_second counts the tensors' bytes once.
#include <torchfeed/plugin/batch_codec.h>
#include <torchfeed/plugin/batch_memory.h>
#include <torchfeed/plugin/loader/batch_arena.h>
#include <torchfeed/plugin/loader/lease.h>

#include <ATen/ops/zeros.h>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

namespace feed = torchfeed;
using torch::data::Example;

/// The worker's part and the trainer's, with a ring of one slot.
class Way {
 public:
  template <typename Batch, typename Make>
  Batch send(const Make& make) {
    feed::loader::SlotRing& ring = shared_->ring;
    const std::uint32_t index = ring.find_free(0).value();
    ring.post(index, ++ticket_);
    ring.wait_for_work(0);
    feed::loader::SlotMemory memory(ring, index);
    feed::loader::BatchArena arena(memory, 0);
    feed::loader::current_arena() = &arena;
    feed::BatchWriter writer(arena);
    feed::BatchCodec<Batch>::encode(writer, make());
    const feed::loader::Record record = writer.finish();
    feed::loader::current_arena() = nullptr;
    ring.finish(index, feed::loader::SlotState::kDone);

    auto* lease = new feed::loader::Lease(shared_, index);
    feed::BatchReader reader(ring.payload(index), record, lease);
    Batch batch = feed::BatchCodec<Batch>::decode(reader);
    lease->release();
    return batch;
  }

  Way() { shared_->ring.header().target_workers = 1; }

 private:
  std::shared_ptr<feed::loader::LeasedRing> shared_ =
      std::make_shared<feed::loader::LeasedRing>(1, std::uint64_t{1} << 30, 0);
  std::uint64_t ticket_ = 0;
};

template <typename Batch, typename Make>
void send(benchmark::State& state, std::size_t bytes, const Make& make) {
  Way way;
  for (auto _ : state) {
    const auto batch = way.send<Batch>(make);
    benchmark::DoNotOptimize(&batch);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}

/// 32 windows of 50 rows of 5 columns, and a number each; `times` as much for larger ones.
void example(benchmark::State& state, bool in_slot) {
  const std::int64_t rows = 32 * state.range(0);
  const at::Tensor data = at::zeros({rows, 50, 5});
  const at::Tensor target = at::zeros({rows});
  send<Example<>>(state, data.nbytes() + target.nbytes(), [&]() -> Example<> {
    if (!in_slot) return {data, target};
    return {feed::empty_batch({rows, 50, 5}), feed::empty_batch({rows})};
  });
}
BENCHMARK_CAPTURE(example, in_slot, true)->Arg(1)->Arg(1024);
BENCHMARK_CAPTURE(example, copied, false)->Arg(1)->Arg(1024);

/// 32 examples that nobody has stacked.
void examples(benchmark::State& state) {
  const std::vector<Example<>> batch(32, Example<>(at::zeros({50, 5}), at::zeros({})));
  send<std::vector<Example<>>>(state, 32 * 251 * sizeof(float), [&] { return batch; });
}
BENCHMARK(examples);

void named_tensors(benchmark::State& state) {
  using Batch = std::map<std::string, at::Tensor>;
  const Batch batch{{"prices", at::zeros({32, 50, 5})}, {"mask", at::zeros({32, 50})}, {"target", at::zeros({32})}};
  send<Batch>(state, 32 * (250 + 50 + 1) * sizeof(float), [&] { return batch; });
}
BENCHMARK(named_tensors);

/// A request: the indices of a batch.
void indices(benchmark::State& state) {
  const std::vector<std::size_t> batch(static_cast<std::size_t>(state.range(0)), 7);
  send<std::vector<std::size_t>>(state, batch.size() * sizeof(std::size_t), [&] { return batch; });
}
BENCHMARK(indices)->Arg(32)->Arg(4096);

}  // namespace

BENCHMARK_MAIN();
