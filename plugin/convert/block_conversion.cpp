#include <torchfeed/plugin/convert/block_conversion.h>
#include <torchfeed/plugin/convert/byte_channels.h>
#include <torchfeed/plugin/convert/reorder.h>
#include <torchfeed/plugin/convert/side_by_side.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <vector>

namespace torchfeed::convert {
namespace {

/// Elements of a block: 1 MB of float32, which a core's cache holds while a block is shifted and then added to.
constexpr std::int64_t kBlockElements = 262'144;
/// Fewer are not worth a thread.
constexpr std::int64_t kThreadElements = 32'768;
/// Where that leaves so many: enough for the threads of most machines.
constexpr std::int64_t kLeastBlocks = 16;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

/// How a source is cut: along the first dimension, and where that is not enough along another.
class Cut {
 public:
  /// Into blocks of about `most` elements.
  Cut(const Job& job, std::int64_t most) : sizes_(job.sizes) {
    std::int64_t row = 1;
    for (std::size_t i = 1; i < sizes_.size(); ++i) row *= sizes_[i];
    steps_[0] = std::clamp(most / row, std::int64_t{1}, sizes_[0]);
    for (std::size_t i = 1; i < sizes_.size() && row > most; ++i) {
      const bool longer = dimension_ == 0 || sizes_[i] > sizes_[dimension_];
      if (longer && static_cast<int>(i) != job.channel) dimension_ = i;
    }
    if (dimension_ != 0) {
      const std::int64_t size = sizes_[dimension_];
      steps_[1] = std::clamp(most / (row / size), std::int64_t{1}, size);
    }
    counts_[0] = divide_up(sizes_[0], steps_[0]);
    counts_[1] = dimension_ == 0 ? 1 : divide_up(sizes_[dimension_], steps_[1]);
  }

  std::int64_t blocks() const { return counts_[0] * counts_[1]; }

  /// Blocks of one kind have the same sizes: whole ones, and the last of either dimension.
  static constexpr std::size_t kKinds = 4;
  std::size_t kind(std::int64_t block) const {
    return (first(block) + 1 == counts_[0] ? 1U : 0U) + (second(block) + 1 == counts_[1] ? 2U : 0U);
  }
  /// Any block of the kind; only for kinds that there are.
  Dims sizes(std::int64_t block) const {
    Dims sizes = sizes_;
    sizes[0] = std::min(steps_[0], sizes_[0] - first(block) * steps_[0]);
    if (dimension_ != 0) {
      sizes[dimension_] = std::min(steps_[1], sizes_[dimension_] - second(block) * steps_[1]);
    }
    return sizes;
  }
  /// Of the block's first element.
  std::int64_t offset(std::int64_t block, const Dims& strides) const {
    const std::int64_t offset = first(block) * steps_[0] * strides[0];
    return dimension_ == 0 ? offset : offset + second(block) * steps_[1] * strides[dimension_];
  }

 private:
  std::int64_t first(std::int64_t block) const { return block / counts_[1]; }
  std::int64_t second(std::int64_t block) const { return block % counts_[1]; }

  Dims sizes_;
  std::size_t dimension_ = 0;  ///< the other one; 0 for none
  std::array<std::int64_t, 2> steps_{1, 1};
  std::array<std::int64_t, 2> counts_{1, 1};
};

bool is_one(const std::vector<float>& values, float one) {
  return std::all_of(values.begin(), values.end(), [&](float value) { return value == one; });
}

/// A reorder from float32 to int32 does not hold to the range, other than those to bytes.
void hold_to_int_range(float* values, std::size_t count) {
  constexpr float kLeast = -2147483648.0F;
  constexpr float kLargest = 2147483520.0F;  // the next float32 would be too large
  for (std::size_t i = 0; i < count; ++i) values[i] = std::min(std::max(values[i], kLeast), kLargest);
}

/// What makes float32 of a block, scaled.
enum class Step {
  kReorder,     ///< and the shift is added afterwards
  kSideBySide,  ///< shifted as well
  kSplit,       ///< the same
};

/// What is done with blocks of one kind: a reorder scales, converts and lays out; the shift is added while the block is
/// still in the cache, which is faster than a reorder that adds to its result. Dtypes narrower than float32 are made
/// from that in a second reorder, where there is a shift, so that they are rounded once, and where the layout changes,
/// as a single reorder does that one element at a time; int32 always, to be held to its range.
class BlockConversion {
 public:
  BlockConversion(const Block& block, const std::vector<float>& scale, const std::vector<float>& shift)
      : scale_(scale), shift_(shift), wide_(block) {
    const bool shifts = !is_one(shift, 0);
    if (block.to != at::kFloat) {
      const Block whole = merged(block);
      const bool lies_alike = whole.from_strides == whole.to_strides;
      holds_ = block.to == at::kInt;
      if (!shifts && lies_alike && !holds_) first_ = Reorder::find(whole, scale);
      if (!first_) find_second(block);
    }
    wide_ = merged(wide_);
    if (can_convert_side_by_side(wide_)) {
      step_ = Step::kSideBySide;
    } else if (can_split_byte_channels(wide_)) {
      step_ = Step::kSplit;
    } else {
      if (!first_) first_ = Reorder::find(wide_, scale);
      adds_ = shifts;
    }
    elements_ = 1;
    for (const std::int64_t size : block.sizes) elements_ *= static_cast<std::size_t>(size);
    complete_ = (step_ != Step::kReorder || first_) && (wide_.to == block.to || second_);
  }

  bool complete() const { return complete_; }

  void run(const void* from, void* to) const {
    void* wide = second_ ? scratch(elements_) : to;
    switch (step_) {
      case Step::kSideBySide:
        convert_side_by_side(wide_, scale_[0], shift_[0], from, static_cast<float*>(wide));
        break;
      case Step::kSplit:
        split_byte_channels(wide_, scale_, shift_, from, static_cast<float*>(wide));
        break;
      case Step::kReorder:
        first_->run(from, wide);
    }
    if (adds_) add(wide_, shift_, static_cast<float*>(wide));
    if (holds_) hold_to_int_range(static_cast<float*>(wide), elements_);
    if (second_) second_->run(wide, to);
  }

 private:
  /// Makes `wide_` the block's float32, in memory of its own, and finds what converts that.
  void find_second(const Block& block) {
    wide_.to = at::kFloat;
    wide_.to_strides = contiguous_strides(block.sizes);
    Block narrow = block;
    narrow.from = at::kFloat;
    narrow.from_strides = wide_.to_strides;
    narrow.channel = -1;
    second_ = Reorder::find(merged(narrow), {1});
  }

  static void* scratch(std::size_t elements) {
    thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), elements));
    return memory.data();
  }

  std::vector<float> scale_;
  std::vector<float> shift_;
  Block wide_;  ///< as it is after the first step
  std::size_t elements_ = 0;
  Step step_ = Step::kReorder;
  bool adds_ = false;
  bool holds_ = false;
  bool complete_ = false;
  std::shared_ptr<const Reorder> first_;
  std::shared_ptr<const Reorder> second_;
};

/// The conversions of one source's blocks, by kind; sources whose strides are alike share them.
class SourceConversion {
 public:
  SourceConversion(const Job& job, const Affine& affine, const Cut& cut, const Dims& strides) : strides_(strides) {
    const std::vector<float> scale = floats(affine.scale);
    const std::vector<float> shift = floats(affine.shift);
    Block block{job.from, job.to, {}, strides, contiguous_strides(job.sizes), job.channel};
    for (std::int64_t i = 0; i < cut.blocks() && complete_; ++i) {
      auto& conversion = kinds_[cut.kind(i)];
      if (conversion) continue;
      block.sizes = cut.sizes(i);
      conversion = std::make_unique<BlockConversion>(block, scale, shift);
      complete_ = conversion->complete();
    }
  }

  bool complete() const { return complete_; }
  const Dims& strides() const { return strides_; }
  const BlockConversion& operator[](std::size_t kind) const { return *kinds_[kind]; }

 private:
  Dims strides_;
  bool complete_ = true;
  std::array<std::unique_ptr<BlockConversion>, Cut::kKinds> kinds_;
};

/// Calls `convert` for each of so many blocks, each once, from all threads of a team. Throws what the first one threw.
template <typename Convert>
void share_out(std::int64_t blocks, int threads, Team team, const Convert& convert) {
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  team(threads, [&] {
    try {
      for (std::int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) convert(block);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
      next = blocks;
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace

bool convert_with_onednn(const Job& job, const Affine& affine, void* result, int threads, Team team) {
  const Dims to_strides = contiguous_strides(job.sizes);
  const std::int64_t elements = to_strides[0] * job.sizes[0];
  const auto sources = static_cast<std::int64_t>(job.sources.size());
  // Blocks do not depend on the number of threads, as the last bits of a number may on its block's shape. Nor does a
  // team of a few: OpenMP would end the others' threads and start them again for the next operator.
  if (sources * elements < 2 * kThreadElements) threads = 1;
  const Cut cut(job, std::clamp(divide_up(sources * elements, kLeastBlocks), kThreadElements, kBlockElements));
  std::vector<std::shared_ptr<const SourceConversion>> conversions;
  conversions.reserve(job.sources.size());
  for (const Source& source : job.sources) {
    if (!conversions.empty() && conversions.back()->strides() == source.strides) {
      conversions.push_back(conversions.back());
      continue;
    }
    conversions.push_back(std::make_shared<const SourceConversion>(job, affine, cut, source.strides));
    if (!conversions.back()->complete()) return false;
  }

  const auto from_bytes = static_cast<std::int64_t>(c10::elementSize(job.from));
  const auto to_bytes = static_cast<std::int64_t>(c10::elementSize(job.to));
  const auto convert = [&](std::int64_t i) {
    const auto source = static_cast<std::size_t>(i / cut.blocks());
    const std::int64_t block = i % cut.blocks();
    const Source& in = job.sources[source];
    const auto* from = static_cast<const std::byte*>(in.data) + cut.offset(block, in.strides) * from_bytes;
    auto* to = static_cast<std::byte*>(result) +
               (static_cast<std::int64_t>(source) * elements + cut.offset(block, to_strides)) * to_bytes;
    (*conversions[source])[cut.kind(block)].run(from, to);
  };
  share_out(sources * cut.blocks(), threads, team, convert);
  return true;
}

}  // namespace torchfeed::convert
