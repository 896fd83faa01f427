#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// What a .npy file says of its array.
///
/// Source: "A Simple File Format for NumPy Arrays", numpy/lib/format.py of NumPy 1.24 (formats 1.0, 2.0 and 3.0).
struct NpyHeader {
  /// As in the file without its byte order: "f4", "u2", "b1".
  std::string type;
  /// Bytes an element.
  std::size_t item_size = 0;
  std::vector<std::int64_t> shape;
  /// Where the elements begin in the file; a multiple of item_size.
  std::size_t data_offset = 0;
  /// Of all elements. data_offset + data_bytes is the file's size.
  std::size_t data_bytes = 0;

  /// Reads the header of a file with these bytes; `path` stands for it in messages.
  ///
  /// Throws `DataError` for everything that is no little-endian array of numbers in C order with exactly the bytes that
  /// its shape asks for: another file, one that is cut short or too long, a header that does not parse, big-endian
  /// numbers, objects, text, structures, Fortran order, a shape whose bytes exceed 2^63 - 1.
  static NpyHeader parse(std::span<const std::uint8_t> file, const std::string& path);
};

}  // namespace torchfeed::datasets
