#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace torchfeed::testing {

/// A .npy file's bytes before the data: format `major`.0 with this dictionary, padded to 64 bytes as NumPy does.
inline std::string npy_header(const std::string& dictionary, int major = 1) {
  const std::size_t width = major == 1 ? 2 : 4;
  std::string text = dictionary;
  while ((8 + width + text.size() + 1) % 64 != 0) text += ' ';
  text += '\n';
  std::string bytes = std::string("\x93NUMPY") + static_cast<char>(major) + '\0';
  for (std::size_t i = 0; i < width; ++i) bytes += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return bytes + text;
}

/// The dictionary of an array in C order: shape as Python writes it, "(3, 4)".
inline std::string npy_dictionary(const std::string& descr, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

/// A whole .npy file.
template <typename T>
std::string npy_file(const std::string& descr, const std::string& shape, const std::vector<T>& values) {
  return npy_header(npy_dictionary(descr, shape)) + bytes_of(values);
}

}  // namespace torchfeed::testing
