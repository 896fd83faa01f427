#pragma once

#include <torchfeed/datasets/npy/mapped_file.h>
#include <torchfeed/datasets/npy/npy_header.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// The array in a .npy file, mapped read-only: opening it reads the header alone, whatever the size. See MappedFile
/// about what a file must not do meanwhile.
///
/// Copies share the mapping, which lasts as long as one of them or a tensor of theirs. Any thread.
class NpyArray {
 public:
  /// Throws `DataError` for what NpyHeader::parse refuses and what cannot be mapped.
  explicit NpyArray(const std::string& path, FileAccess access = FileAccess::kNormal);
  /// The same for a file of a directory.
  NpyArray(const OpenDirectory& directory, const std::string& name, FileAccess access = FileAccess::kNormal);

  const std::string& path() const { return path_; }
  /// As in the file, without the byte order: "f4".
  const std::string& type() const { return header_.type; }
  const std::vector<std::int64_t>& shape() const { return header_.shape; }

  /// Elements' bytes, in C order.
  std::span<const std::uint8_t> bytes() const;

  /// LibTorch's type of the elements. Throws `DataError` where this LibTorch has none (unsigned ones of more than 8
  /// bits came with 2.3).
  at::ScalarType scalar_type() const;

  /// The array as a tensor without a copy. Read it only: writing to it ends the process with SIGSEGV.
  /// Throws as scalar_type().
  at::Tensor tensor() const;

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  NpyHeader header_;
};

}  // namespace torchfeed::datasets
