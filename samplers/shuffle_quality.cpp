#include <torchfeed/samplers/shuffle_quality.h>

#include <c10/util/Exception.h>

#include <cmath>

namespace torchfeed::samplers {

ShuffleQuality measure_shuffle_quality(std::span<const std::size_t> order, std::size_t batch_size) {
  TORCH_CHECK(batch_size > 0, "measure_shuffle_quality: batch_size: expected 1 or above, got 0");
  ShuffleQuality quality;
  if (order.size() < 2) {
    return quality;
  }
  const auto size = static_cast<double>(order.size());
  // Of the integers below size.
  const double mean = (size - 1) / 2;
  const double variance = (size * size - 1) / 12;
  const auto centred = [&](std::size_t position) { return static_cast<double>(order[position]) - mean; };

  double distance = 0;
  double product = 0;
  for (std::size_t position = 0; position < order.size(); ++position) {
    distance += std::abs(static_cast<double>(order[position]) - static_cast<double>(position));
    product += position > 0 ? centred(position - 1) * centred(position) : 0;
  }
  quality.displacement = distance / size / ((size * size - 1) / (3 * size));
  quality.serial_correlation = product / (size - 1) / variance;

  const std::size_t batches = order.size() / batch_size;
  if (batches < 2) {
    return quality;
  }
  double square_of_means = 0;
  for (std::size_t batch = 0; batch < batches; ++batch) {
    double sum = 0;
    for (std::size_t i = 0; i < batch_size; ++i) {
      sum += centred(batch * batch_size + i);
    }
    square_of_means += std::pow(sum / static_cast<double>(batch_size), 2);
  }
  // Drawn without replacement, a batch of all would have no variance.
  const auto drawn = static_cast<double>(batch_size);
  const double of_shuffle = variance / drawn * (size - drawn) / (size - 1);
  quality.batch_variance = square_of_means / static_cast<double>(batches) / of_shuffle;
  return quality;
}

}  // namespace torchfeed::samplers
