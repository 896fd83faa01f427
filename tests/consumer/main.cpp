#include <torchfeed/torchfeed.h>

#include <iostream>
#include <optional>

namespace feed = torchfeed;

/// The numbers 0 to 99.
struct Numbers : torch::data::datasets::Dataset<Numbers> {
  torch::data::Example<> get(size_t index) override {
    return {torch::full({1}, static_cast<double>(index)), torch::zeros({1})};
  }
  // `auto` would not do: the base's type is torch::optional in older and std::optional in newer LibTorch.
  torch::optional<size_t> size() const override { return 100; }
};

int main() {
  auto loader = feed::make_data_loader<torch::data::samplers::RandomSampler>(
      Numbers().map(torch::data::transforms::Stack<>()), feed::DataLoaderOptions().batch_size(10).num_workers(2));
  double sum = 0;
  int batches = 0;
  for (auto& batch : *loader) {
    sum += batch.data.sum().item<double>();
    ++batches;
  }
  std::cout << "sum " << sum << " over " << batches << " batches from " << loader->stats().workers << " workers\n";
  return sum == 4950 ? 0 : 1;
}
