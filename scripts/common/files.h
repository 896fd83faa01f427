#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace torchfeed::program {

/// The whole file. Throws InputError that names it if it cannot be read, is not a plain file or is empty.
std::string read_file(const std::string& path);

/// Puts `bytes` where `path` is, or leaves what is there as it was: writes beside it, forces it to the disk, renames.
/// Throws InputError that names the file, and leaves nothing behind, if that cannot be done.
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Makes a folder and those above it. Throws InputError if it is not there after that, or is no folder.
void make_folder(const std::string& path);

/// What bytes that nothing was before have as a fingerprint.
inline constexpr uint64_t kFirstFingerprint = 0xcbf29ce484222325U;

/// 64-bit FNV-1a, to tell whether two files are the same. `before` is that of the bytes before these.
uint64_t fingerprint(std::string_view bytes, uint64_t before = kFirstFingerprint) noexcept;

/// Of a whole file, in memory that does not depend on its size. Throws as `read_file`.
uint64_t fingerprint_file(const std::string& path, uint64_t before = kFirstFingerprint);

}  // namespace torchfeed::program
