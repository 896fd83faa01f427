#include <torchfeed/plugin/convert/reorder.h>

#include <c10/util/Exception.h>

#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <list>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace torchfeed::convert {
namespace {

/// Makes the calling thread's OpenMP regions those of one thread while it lives.
class OneOpenMpThread {
 public:
  OneOpenMpThread() {
    if (openmp().set != nullptr) openmp().set(1);
  }
  ~OneOpenMpThread() {
    if (openmp().set != nullptr) openmp().set(threads_);
  }
  OneOpenMpThread(const OneOpenMpThread&) = delete;
  OneOpenMpThread& operator=(const OneOpenMpThread&) = delete;

  /// Looks up the functions, null without an OpenMP library, once.
  struct OpenMp {
    int (*get)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    void (*set)(int) = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  };
  static const OpenMp& openmp() {
    static const OpenMp openmp;
    return openmp;
  }

 private:
  const int threads_ = openmp().get != nullptr ? openmp().get() : 1;
};

/// Never destroyed, as threads may convert while the process ends.
const dnnl::engine& engine() {
  static const auto* const engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

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
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own belongs to the thread that made it
  const int mask = scale.size() == 1 ? 0 : 1 << block.channel;
#if DNNL_VERSION_MAJOR >= 3
  attributes.set_scales_mask(DNNL_ARG_SRC, mask);
#else
  attributes.set_output_scales(mask, scale);
#endif
  return attributes;
}

/// oneDNN's memory of any thread, at least that large.
void* scratchpad(std::size_t bytes) {
  thread_local std::vector<std::max_align_t> memory;
  memory.resize(std::max(memory.size(), bytes / sizeof(std::max_align_t) + 1));
  return memory.data();
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
    thread_local dnnl::stream stream(engine());
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_FROM, dnnl::memory(from_, engine(), const_cast<void*>(from))},
        {DNNL_ARG_TO, dnnl::memory(to_, engine(), to)}};
    if (scratchpad_.get_size() > 0) {
      arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(scratchpad_, engine(), scratchpad(scratchpad_.get_size())));
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::memory::desc scales({static_cast<dnnl::memory::dim>(scale_.size())}, dnnl::memory::data_type::f32,
                                    dnnl::memory::format_tag::a);
    arguments.emplace(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                      dnnl::memory(scales, engine(), const_cast<float*>(scale_.data())));
#endif
    reorder_.execute(stream, arguments);
    stream.wait();
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
  const OneOpenMpThread one;
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

/// The reorders used last, the latest first.
class Cache {
 public:
  std::shared_ptr<const Reorder>* find(const Key& key) {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
    if (found == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return &entries_.front().second;
  }

  void put(Key key, std::shared_ptr<const Reorder> reorder) {
    constexpr std::size_t kCapacity = 64;
    if (entries_.size() == kCapacity) entries_.pop_back();
    entries_.emplace_front(std::move(key), std::move(reorder));
  }

 private:
  std::list<std::pair<Key, std::shared_ptr<const Reorder>>> entries_;
};

}  // namespace

std::shared_ptr<const Reorder> Reorder::find(const Block& block, const std::vector<float>& scale) {
  thread_local Cache cache;
  Key key = key_of(block, scale);
  if (const auto* found = cache.find(key)) return *found;
  auto made = make(block, scale);
  cache.put(std::move(key), made);
  return made;
}

void prepare_reorders() { OneOpenMpThread::openmp(); }

}  // namespace torchfeed::convert
