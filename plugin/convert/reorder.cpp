#include <torchfeed/plugin/convert/reorder.h>

#include <torchfeed/plugin/onednn/engine.h>
#include <torchfeed/plugin/onednn/one_openmp_thread.h>
#include <torchfeed/plugin/onednn/recently_used.h>

#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace torchfeed::convert {
namespace {

using onednn::engine;

std::optional<dnnl::memory::data_type> type_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
      return dnnl::memory::data_type::u8;
    case at::kChar:
      return dnnl::memory::data_type::s8;
    case at::kInt:
      return dnnl::memory::data_type::s32;
    case at::kFloat:
      return dnnl::memory::data_type::f32;
    case at::kBFloat16:
      return dnnl::memory::data_type::bf16;
    default:
      return std::nullopt;
  }
}

dnnl::primitive_attr attributes(const Block& block, const std::vector<float>& scale) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const int mask = scale.size() == 1 ? 0 : 1 << block.channel;
#if DNNL_VERSION_MAJOR >= 3
  attributes.set_scales_mask(DNNL_ARG_SRC, mask);
#else
  attributes.set_output_scales(mask, scale);
#endif
  return attributes;
}

class OneDnnReorder final : public Reorder {
 public:
  OneDnnReorder(const dnnl::reorder::primitive_desc& description, std::vector<float> scale)
      : from_(description.src_desc()),
        to_(description.dst_desc()),
        scratchpad_(description.scratchpad_desc()),
        scale_(std::move(scale)),
        reorder_(description) {}

  void run(const void* from, void* to) const override {
    try {
      execute(from, to);
    } catch (const dnnl::error& error) {
      TORCH_CHECK(false, "torchfeed: BatchConverter: oneDNN: ", error.what());
    }
  }

 private:
  void execute(const void* from, void* to) const {
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_FROM, dnnl::memory(from_, engine(), const_cast<void*>(from))},
        {DNNL_ARG_TO, dnnl::memory(to_, engine(), to)}};
    if (scratchpad_.get_size() > 0) {
      arguments.emplace(DNNL_ARG_SCRATCHPAD,
                        dnnl::memory(scratchpad_, engine(), onednn::scratchpad(scratchpad_.get_size())));
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::memory::desc scales({static_cast<dnnl::memory::dim>(scale_.size())}, dnnl::memory::data_type::f32,
                                    dnnl::memory::format_tag::a);
    arguments.emplace(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                      dnnl::memory(scales, engine(), const_cast<float*>(scale_.data())));
#endif
    reorder_.execute(onednn::stream(), arguments);
    onednn::stream().wait();
  }

  dnnl::memory::desc from_;
  dnnl::memory::desc to_;
  dnnl::memory::desc scratchpad_;
  std::vector<float> scale_;  // from oneDNN 3 on an argument of each run
  dnnl::reorder reorder_;
};

std::shared_ptr<const Reorder> make(const Block& block, const std::vector<float>& scale) {
  const auto from = type_of(block.from);
  const auto to = type_of(block.to);
  if (block.sizes.empty()) {  // a single element
    return make({block.from, block.to, {1}, {1}, {1}, -1}, scale);
  }
  if (!from || !to || block.sizes.size() > DNNL_MAX_NDIMS) return nullptr;
  const onednn::OneOpenMpThread one;
  try {
    const dnnl::reorder::primitive_desc description(engine(), {block.sizes, *from, block.from_strides}, engine(),
                                                    {block.sizes, *to, block.to_strides}, attributes(block, scale),
                                                    true);
    // The others are called ref and simple.
    if (!description || std::string_view(description.impl_info_str()).substr(0, 3) != "jit") return nullptr;
    return std::make_shared<OneDnnReorder>(description, scale);
  } catch (const dnnl::error&) {
    return nullptr;  // it takes no strides that overlap
  }
}

using Key = std::vector<std::int64_t>;

Key key_of(const Block& block, const std::vector<float>& scale) {
  Key key{static_cast<std::int64_t>(block.from), static_cast<std::int64_t>(block.to), block.channel,
          static_cast<std::int64_t>(block.sizes.size())};
  for (const Dims* dims : {&block.sizes, &block.from_strides, &block.to_strides}) {
    key.insert(key.end(), dims->begin(), dims->end());
  }
  for (const float value : scale) {
    std::int32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    key.push_back(bits);
  }
  return key;
}

}  // namespace

std::shared_ptr<const Reorder> Reorder::find(const Block& block, const std::vector<float>& scale) {
  thread_local onednn::RecentlyUsed<Key, std::shared_ptr<const Reorder>, 64> reorders;
  return reorders.find(key_of(block, scale), [&] { return make(block, scale); });
}

void prepare_reorders() { onednn::OneOpenMpThread::prepare(); }

}  // namespace torchfeed::convert
