#include <torchfeed/plugin/loader/pinned_slots.h>

#include <ATen/Context.h>
#include <c10/util/Exception.h>

#include <dlfcn.h>

namespace torchfeed::loader {

std::optional<HostMemoryDriver> find_host_memory_driver() {
  if (!at::hasCUDA()) {
    TORCH_WARN_ONCE("torchfeed: pin_memory: LibTorch has no GPU here, batches are not pinned");
    return std::nullopt;
  }
  HostMemoryDriver driver;
  driver.add = reinterpret_cast<decltype(driver.add)>(::dlsym(RTLD_DEFAULT, "cudaHostRegister"));
  driver.remove = reinterpret_cast<decltype(driver.remove)>(::dlsym(RTLD_DEFAULT, "cudaHostUnregister"));
  driver.wait = reinterpret_cast<decltype(driver.wait)>(::dlsym(RTLD_DEFAULT, "cudaDeviceSynchronize"));
  if (driver.add == nullptr || driver.remove == nullptr || driver.wait == nullptr) {
    TORCH_WARN_ONCE("torchfeed: pin_memory: CUDA's runtime library is not loaded, batches are not pinned");
    return std::nullopt;
  }
  return driver;
}

PinnedSlots::~PinnedSlots() {
  if (owner_depth_ != fork_depth()) {
    return;  // a fork of the trainer, which cannot use CUDA and owns no registration
  }
  for (const Range& range : slots_) {
    if (range.bytes != 0) {
      driver_.remove(range.begin);
    }
  }
}

void PinnedSlots::unpin(std::uint32_t index) {
  if (index < slots_.size() && slots_[index].bytes != 0) {
    driver_.remove(slots_[index].begin);
    slots_[index] = Range();
  }
}

void PinnedSlots::pin(std::uint32_t index, void* begin, std::size_t bytes) {
  constexpr unsigned kDefaultFlags = 0;
  if (index >= slots_.size()) {
    slots_.resize(index + std::size_t{1});
  }
  Range& range = slots_[index];
  if (bytes <= range.bytes || bytes >= refused_bytes_) {
    return;
  }
  unpin(index);
  if (const int error = driver_.add(begin, bytes, kDefaultFlags); error != 0) {
    refused_bytes_ = bytes;
    TORCH_WARN_ONCE("torchfeed: pin_memory: cudaHostRegister of ", bytes, " bytes failed with error ", error,
                    ", such batches are not pinned");
    return;
  }
  range = {begin, bytes};
}

}  // namespace torchfeed::loader
