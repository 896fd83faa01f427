#pragma once

#include <torchfeed/datasets/bar_rows.h>
#include <torchfeed/datasets/converted/row_writer.h>
#include <torchfeed/datasets/csv/csv_reader.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>

namespace torchfeed::datasets::converted {

/// Lays rows out and writes them in a reader's threads, as if one after the other: the first portion with a fault is
/// the one that is told. For one thread.
class RowPipeline {
 public:
  /// Both must outlive this. Portions under way: one a thread, and one for what the caller does.
  RowPipeline(CsvReader& reader, RowWriter& writer, int threads);
  /// Waits for what is under way.
  ~RowPipeline();
  RowPipeline(const RowPipeline&) = delete;
  RowPipeline& operator=(const RowPipeline&) = delete;

  /// The next rows. Throws what `RowBlock::write` and `RowWriter::put` have thrown for rows before.
  void push(RowBlock block);
  /// Until all rows are written. Throws as `push`; does nothing where that has been thrown before.
  void finish();

 private:
  struct Portion {
    RowBlock block;
    std::int64_t first_row;
    std::unique_ptr<float[]> rows{};
    std::size_t numbers = 0;
  };
  struct UnderWay {
    std::shared_ptr<Portion> portion;
    std::future<void> written;
  };

  void wait();
  void take_first();

  CsvReader& reader_;
  RowWriter& writer_;
  std::size_t columns_;
  std::size_t most_;
  std::deque<UnderWay> under_way_;
};

}  // namespace torchfeed::datasets::converted
