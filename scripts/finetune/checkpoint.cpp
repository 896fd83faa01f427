#include "checkpoint.h"

#include <cstring>
#include <sstream>

#include "../common/files.h"
#include "../common/program.h"

namespace torchfeed::finetune {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainingState, epoch, step, loss_sum, loss_count, train_loss, validation_loss,
                                   best_validation, best_epoch, train_seconds, wait_seconds, trained_samples)

namespace {

constexpr int64_t kFormat = 1;

void write_bytes(torch::serialize::OutputArchive& archive, const std::string& key, const std::string& bytes) {
  auto tensor = torch::empty({static_cast<int64_t>(bytes.size())}, torch::kUInt8);
  std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  archive.write(key, tensor, /*is_buffer=*/true);
}

std::string read_bytes(torch::serialize::InputArchive& archive, const std::string& key) {
  torch::Tensor tensor;
  archive.read(key, tensor, /*is_buffer=*/true);
  TORCH_CHECK(tensor.scalar_type() == torch::kUInt8 && tensor.is_contiguous(), "'", key, "' is no string of bytes");
  return std::string(static_cast<const char*>(tensor.data_ptr()), static_cast<size_t>(tensor.numel()));
}

}  // namespace

// Numbers go as JSON: nlohmann writes the shortest text that reads back as the same double.
void Checkpoint::save(const std::string& path) const {
  torch::serialize::OutputArchive archive;
  archive.write("format", torch::IValue(kFormat));
  write_bytes(archive, "identity", identity.dump());
  write_bytes(archive, "state", nlohmann::json(state).dump());
  write_bytes(archive, "model", model);
  write_bytes(archive, "best_model", best_model);
  write_bytes(archive, "optimizer", optimizer);
  torch::serialize::OutputArchive loader_archive(archive.compilation_unit());
  loader_archive << loader;
  archive.write("loader", loader_archive);
  archive.write("generator", generator, /*is_buffer=*/true);
  std::ostringstream bytes;
  archive.save_to(bytes);
  program::write_file_atomically(path, bytes.str());
}

Checkpoint Checkpoint::load(const std::string& path) {
  const std::string bytes = program::read_file(path);
  try {
    torch::serialize::InputArchive archive;
    archive.load_from(bytes.data(), bytes.size());
    torch::IValue format;
    TORCH_CHECK(archive.try_read("format", format) && format.isInt() && format.toInt() == kFormat, "expected format ",
                kFormat);
    Checkpoint checkpoint;
    checkpoint.identity = nlohmann::json::parse(read_bytes(archive, "identity"));
    checkpoint.state = nlohmann::json::parse(read_bytes(archive, "state")).get<TrainingState>();
    checkpoint.model = read_bytes(archive, "model");
    checkpoint.best_model = read_bytes(archive, "best_model");
    checkpoint.optimizer = read_bytes(archive, "optimizer");
    torch::serialize::InputArchive loader_archive;
    archive.read("loader", loader_archive);
    loader_archive >> checkpoint.loader;
    archive.read("generator", checkpoint.generator, /*is_buffer=*/true);
    return checkpoint;
  } catch (const std::exception& error) {
    throw program::InputError(path + ": cannot be read as a checkpoint of finetune: " + program::one_line(error));
  }
}

void check_identity(const std::string& path, const nlohmann::json& saved, const nlohmann::json& now) {
  for (const auto& [flag, value] : now.items()) {
    const auto before = saved.find(flag);
    if (before != saved.end() && *before == value) continue;
    // Files are compared by content, of which only that it differs is worth telling.
    if (flag == "model" || flag == "data") {
      throw program::InputError(path + ": the run that it belongs to had another --" + flag + " file");
    }
    throw program::InputError(path + ": the run that it belongs to had " + flag + " " +
                              (before == saved.end() ? "not at all" : before->dump()) + ", got " + value.dump());
  }
}

}  // namespace torchfeed::finetune
