#include <torchfeed/datasets/converted/row_pipeline.h>

#include <utility>

namespace torchfeed::datasets::converted {

RowPipeline::RowPipeline(CsvReader& reader, RowWriter& writer, int threads)
    : reader_(reader),
      writer_(writer),
      columns_(writer.statistics().columns()),
      most_(static_cast<std::size_t>(threads) + 1) {}

RowPipeline::~RowPipeline() { wait(); }

void RowPipeline::wait() {
  for (const auto& one : under_way_) reader_.wait(one.written);
  under_way_.clear();
}

void RowPipeline::push(RowBlock block) {
  const auto count = block.times().size();
  auto portion = std::make_shared<Portion>(std::move(block), writer_.reserve(static_cast<std::int64_t>(count)));
  portion->numbers = count * columns_;
  auto written = reader_.async([portion, this] {
    portion->rows = std::make_unique_for_overwrite<float[]>(portion->numbers);
    portion->block.write(portion->rows.get());
    const RowBlock done = std::move(portion->block);  // and gone with this
    writer_.put(portion->first_row, {portion->rows.get(), portion->numbers}, done.times());
  });
  under_way_.push_back({std::move(portion), std::move(written)});
  while (under_way_.size() >= most_) take_first();
}

void RowPipeline::finish() {
  while (!under_way_.empty()) take_first();
}

// Statistics are those of one row after the other.
void RowPipeline::take_first() {
  reader_.wait(under_way_.front().written);
  UnderWay first = std::move(under_way_.front());
  under_way_.pop_front();
  try {
    first.written.get();
  } catch (...) {
    wait();  // Faults of rows behind are none of those that a single thread would have come to.
    throw;
  }
  writer_.add({first.portion->rows.get(), first.portion->numbers});
}

}  // namespace torchfeed::datasets::converted
