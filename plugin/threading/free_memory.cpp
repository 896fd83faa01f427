#include <torchfeed/plugin/threading/free_memory.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

namespace torchfeed::threading {
namespace {

std::optional<MemoryRoom> read_machine(const std::filesystem::path& path) {
  std::ifstream file(path);
  for (std::string key; file >> key;) {
    std::uint64_t kibibytes = 0;
    if (key == "MemAvailable:" && file >> kibibytes) return MemoryRoom{kibibytes * 1024, path.string()};
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

}  // namespace

std::optional<MemoryRoom> read_free_memory(const std::filesystem::path& root) {
  auto machine = read_machine(root / "proc/meminfo");
  auto room = read_memory_room(root);
  if (!machine || (room && room->bytes < machine->bytes)) return room;
  return machine;
}

}  // namespace torchfeed::threading
