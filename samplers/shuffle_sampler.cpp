#include <torch/torch.h>
#include <torchfeed/samplers/shuffle_sampler.h>

#include <algorithm>

namespace torchfeed::samplers {
namespace {

uint64_t draw_seed() { return static_cast<uint64_t>(torch::empty({}, torch::kInt64).random_().item<int64_t>()); }

// Mixed twice, so that neighbouring seeds do not share orders in shifted epochs.
uint64_t epoch_key(uint64_t seed, uint64_t epoch) {
  return KeyedPermutation::mix(KeyedPermutation::mix(seed + 0x9e3779b97f4a7c15U) ^ epoch);
}

// Archives hold tensors, tensors hold signed words: unsigned values travel as the same bits.
void write_word(torch::serialize::OutputArchive& archive, const std::string& key, uint64_t word) {
  archive.write(key, torch::tensor(static_cast<int64_t>(word), torch::kInt64), /*is_buffer=*/true);
}

uint64_t read_word(torch::serialize::InputArchive& archive, const std::string& key) {
  torch::Tensor tensor;
  TORCH_CHECK(archive.try_read(key, tensor, /*is_buffer=*/true), "ShuffleSampler: the archive has no '", key, "'");
  TORCH_CHECK(tensor.numel() == 1 && tensor.scalar_type() == torch::kInt64, "ShuffleSampler: expected one int64 as '",
              key, "', got ", tensor.scalar_type(), " of shape ", tensor.sizes());
  return static_cast<uint64_t>(tensor.item<int64_t>());
}

}  // namespace

ShuffleSampler::ShuffleSampler(size_t size, std::optional<uint64_t> seed)
    : seed_(seed ? *seed : draw_seed()), permutation_(size, epoch_key(seed_, epoch_)) {}

void ShuffleSampler::reset(torch::optional<size_t> new_size) {
  ++epoch_;
  position_ = 0;
  permutation_ = KeyedPermutation(new_size ? *new_size : size(), epoch_key(seed_, epoch_));
}

torch::optional<std::vector<size_t>> ShuffleSampler::next(size_t batch_size) {
  const size_t count = std::min(batch_size, size() - position_);
  if (count == 0) return torch::nullopt;
  std::vector<size_t> indices(count);
  for (auto& index : indices) index = permutation_(position_++);
  return indices;
}

void ShuffleSampler::save(torch::serialize::OutputArchive& archive) const {
  write_word(archive, "size", size());
  write_word(archive, "seed", seed_);
  write_word(archive, "epoch", epoch_);
  write_word(archive, "position", position_);
}

void ShuffleSampler::load(torch::serialize::InputArchive& archive) {
  const auto size = read_word(archive, "size");
  const auto seed = read_word(archive, "seed");
  const auto epoch = read_word(archive, "epoch");
  const auto position = read_word(archive, "position");
  TORCH_CHECK(position <= size, "ShuffleSampler: the archive's position ", position, " is beyond its size ", size);
  seed_ = seed;
  epoch_ = epoch;
  position_ = position;
  permutation_ = KeyedPermutation(size, epoch_key(seed, epoch));
}

void ShuffleSampler::seek(size_t position) {
  TORCH_CHECK(position <= size(), "ShuffleSampler: expected a position of at most ", size(), ", got ", position);
  position_ = position;
}

}  // namespace torchfeed::samplers
