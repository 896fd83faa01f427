#pragma once

#include "support/loader_datasets.h"

#include <torch/data/datasets/stateful.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace torchfeed::testing {

using Records = std::vector<std::int64_t>;

/// Which records of a stream are the reader's: `first` and every `step`-th after it.
struct Part {
  std::int64_t first = 0;
  std::int64_t step = 1;
};
inline Part part_of_this_worker() {
  const auto info = worker_info();
  return info ? Part{info->id, info->count} : Part{};
}

/// Endless; what a StreamSampler drives. Each worker, thread or process, has its own.
class Ticker : public torch::data::datasets::StreamDataset<Ticker, torch::Tensor> {
 public:
  explicit Ticker(std::function<void(std::int64_t)> on_record = {}) : on_record_(std::move(on_record)) {}

  torch::Tensor get_batch(std::size_t size) override {
    const Part part = part_of_this_worker();
    Records records;
    for (; records.size() < size; ++read_) {
      records.push_back(part.first + read_ * part.step);
      if (on_record_) {
        on_record_(records.back());
      }
    }
    return torch::tensor(records, torch::kInt64);
  }
  torch::optional<std::size_t> size() const override { return {}; }

 private:
  std::function<void(std::int64_t)> on_record_;
  std::int64_t read_ = 0;
};

/// Ends by itself. Worker threads share it, worker processes have their own.
class Ledger : public torch::data::datasets::StatefulDataset<Ledger, torch::Tensor> {
 public:
  explicit Ledger(std::int64_t size, std::function<void(std::int64_t)> on_record = {})
      : size_(size), on_record_(std::move(on_record)), mutex_(std::make_shared<std::mutex>()) {}

  torch::optional<torch::Tensor> get_batch(std::size_t size) override {
    const std::lock_guard<std::mutex> lock(*mutex_);
    const auto info = worker_info();
    const Part part = info && info->mode == WorkerMode::kThread ? Part{} : part_of_this_worker();
    Records records;
    for (std::int64_t next = 0; records.size() < size && (next = part.first + read_ * part.step) < size_; ++read_) {
      records.push_back(next);
    }
    if (records.empty()) {
      return {};
    }
    for (const auto record : records) {  // all are read by now, so that an exception costs this batch alone
      if (on_record_) {
        on_record_(record);
      }
    }
    return torch::tensor(records, torch::kInt64);
  }
  void reset() override {
    const std::lock_guard<std::mutex> lock(*mutex_);
    read_ = 0;
  }
  torch::optional<std::size_t> size() const override { return {}; }
  void save(torch::serialize::OutputArchive& /*archive*/) const override {}
  void load(torch::serialize::InputArchive& /*archive*/) override {}

 private:
  std::int64_t size_;
  std::function<void(std::int64_t)> on_record_;
  std::shared_ptr<std::mutex> mutex_;
  std::int64_t read_ = 0;
};

/// The order in which `parts` readers' batches reach the loop, if each reads every parts-th of `size` records.
inline Records round_robin(std::int64_t size, std::int64_t parts, std::int64_t batch_size) {
  Records records;
  for (std::int64_t round = 0; static_cast<std::int64_t>(records.size()) < size; ++round) {
    for (std::int64_t part = 0; part < parts; ++part) {
      for (std::int64_t i = round * batch_size; i < (round + 1) * batch_size && part + i * parts < size; ++i) {
        records.push_back(part + i * parts);
      }
    }
  }
  return records;
}

/// Readers of a Ledger: threads share one.
inline std::int64_t ledger_parts(const Setting& setting) {
  return setting.mode == WorkerMode::kThread ? 1 : std::max(setting.workers, 1);
}

/// Whether the order of a Ledger's records is fixed: several threads that share it race.
inline bool is_ordered(const Setting& setting) { return setting.mode != WorkerMode::kThread || setting.workers == 1; }

inline Records sorted(Records records) {
  std::sort(records.begin(), records.end());
  return records;
}

}  // namespace torchfeed::testing
