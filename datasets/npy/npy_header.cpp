#include <torchfeed/datasets/data_error.h>
#include <torchfeed/datasets/npy/npy_header.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

namespace torchfeed::datasets {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxDimensions = 64;  // NumPy 2's own limit
constexpr std::size_t kMaxShownBytes = 60;

// In quotes, fit for one line of a terminal.
std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxShownBytes)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out + (text.size() > kMaxShownBytes ? "...'" : "'");
}

/// Reads the header's text, a Python dictionary such as {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
class DictionaryParser {
 public:
  DictionaryParser(std::string_view text, const std::string& path) : rest_(text), text_(text), path_(path) {}

  void parse() {
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      expect(':');
      value_of(key);
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_blanks();
    if (!rest_.empty()) fail();
    if (!descr || !fortran_order || !shape) fail();
  }

  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;

 private:
  [[noreturn]] void fail() const {
    throw DataError(path_ + ": expected a .npy header with 'descr', 'fortran_order' and 'shape', got " + shown(text_));
  }

  void value_of(const std::string& key) {
    if (key == "descr" && !descr) {
      skip_blanks();
      if (rest_.starts_with('[')) {
        throw DataError(path_ + ": expected numbers of one type, got a structured array: " + shown(text_));
      }
      descr = quoted();
    } else if (key == "fortran_order" && !fortran_order) {
      fortran_order = boolean();
    } else if (key == "shape" && !shape) {
      shape = tuple();
    } else {
      fail();
    }
  }

  void skip_blanks() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n' || rest_.front() == '\t')) {
      rest_.remove_prefix(1);
    }
  }

  bool take(char c) {
    skip_blanks();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail();
  }

  std::string quoted() {
    skip_blanks();
    if (rest_.empty() || (rest_.front() != '\'' && rest_.front() != '"')) fail();
    const auto end = rest_.find(rest_.front(), 1);
    if (end == std::string_view::npos) fail();
    const auto text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return std::string(text);
  }

  bool boolean() {
    skip_blanks();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (rest_.starts_with(word)) {
        rest_.remove_prefix(word.size());
        return value;
      }
    }
    fail();
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> values;
    expect('(');
    while (!take(')')) {
      skip_blanks();
      std::int64_t value = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
      if (error != std::errc() || value < 0 || values.size() == kMaxDimensions) fail();
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      if (rest_.starts_with('L')) rest_.remove_prefix(1);  // Python 2's long integers
      values.push_back(value);
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return values;
  }

  std::string_view rest_;
  std::string_view text_;
  const std::string& path_;
};

struct Preamble {
  std::size_t text_begin;
  std::size_t text_size;
};

Preamble read_preamble(std::span<const std::uint8_t> file, const std::string& path) {
  if (file.empty()) throw DataError(path + ": expected a .npy file, got an empty file");
  const std::string_view begin(reinterpret_cast<const char*>(file.data()), std::min(file.size(), kMagic.size()));
  if (begin != kMagic.substr(0, begin.size())) {
    throw DataError(path + ": expected a .npy file, which begins with \\x93NUMPY, got " + shown(begin));
  }
  const auto cut_short = [&] {
    return DataError(path + ": expected the header of a .npy file, got a file cut short after " +
                     std::to_string(file.size()) + " bytes");
  };
  if (file.size() < kMagic.size() + 2) throw cut_short();
  const unsigned major = file[kMagic.size()];
  const unsigned minor = file[kMagic.size() + 1];
  if (major < 1 || major > 3 || minor != 0) {
    throw DataError(path + ": expected .npy format 1.0, 2.0 or 3.0, got " + std::to_string(major) + '.' +
                    std::to_string(minor));
  }
  const std::size_t width = major == 1 ? 2 : 4;  // of the length, little-endian
  const std::size_t text_begin = kMagic.size() + 2 + width;
  if (file.size() < text_begin) throw cut_short();
  std::size_t text_size = 0;
  for (std::size_t i = 0; i < width; ++i) text_size |= std::size_t{file[text_begin - width + i]} << (8 * i);
  if (file.size() - text_begin < text_size) throw cut_short();
  return {text_begin, text_size};
}

// "<f4" to "f4" and 4.
void read_type(const std::string& descr, const std::string& path, NpyHeader& header) {
  const auto fail = [&](const std::string& got) {
    throw DataError(path + ": expected little-endian numbers such as '<f4', got " + got + shown(descr));
  };
  if (descr.size() < 2) fail("");
  const char order = descr[0];
  header.type = order == '<' || order == '>' || order == '|' || order == '=' ? descr.substr(1) : descr;
  if (header.type.starts_with('O')) fail("Python objects: ");
  constexpr std::array<std::pair<std::string_view, std::size_t>, 14> kTypes = {{{"b1", 1},
                                                                                {"i1", 1},
                                                                                {"u1", 1},
                                                                                {"i2", 2},
                                                                                {"u2", 2},
                                                                                {"f2", 2},
                                                                                {"i4", 4},
                                                                                {"u4", 4},
                                                                                {"f4", 4},
                                                                                {"i8", 8},
                                                                                {"u8", 8},
                                                                                {"f8", 8},
                                                                                {"c8", 8},
                                                                                {"c16", 16}}};
  for (const auto& [name, size] : kTypes) {
    if (header.type == name) header.item_size = size;
  }
  if (header.item_size == 0) fail("");
  if (order == '>' && header.item_size > 1) fail("big-endian ones: ");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::size_t bytes_of(const NpyHeader& header, const std::string& path) {
  constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  // LibTorch computes strides from the other dimensions even where one is 0, so those must not overflow either.
  std::size_t bytes = header.item_size;
  bool empty = false;
  for (const std::int64_t size : header.shape) {
    empty = empty || size == 0;
    if (size > 0 && __builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes)) bytes = kMost + 1;
    if (bytes > kMost) throw DataError(path + ": the shape " + shape_text(header.shape) + " is too large for a file");
  }
  return empty ? 0 : bytes;
}

}  // namespace

NpyHeader NpyHeader::parse(std::span<const std::uint8_t> file, const std::string& path) {
  const Preamble preamble = read_preamble(file, path);
  const auto* text = reinterpret_cast<const char*>(file.data() + preamble.text_begin);
  DictionaryParser dictionary({text, preamble.text_size}, path);
  dictionary.parse();
  NpyHeader header;
  read_type(*dictionary.descr, path, header);
  header.shape = *dictionary.shape;
  if (*dictionary.fortran_order && header.shape.size() > 1) {
    throw DataError(path + ": expected C order, got Fortran order (numpy.ascontiguousarray changes it)");
  }
  header.data_offset = preamble.text_begin + preamble.text_size;
  if (header.data_offset % header.item_size != 0) {
    throw DataError(path + ": expected the data at a multiple of " + std::to_string(header.item_size) +
                    " bytes, got a header of " + std::to_string(header.data_offset));
  }
  header.data_bytes = bytes_of(header, path);
  const std::size_t found = file.size() - header.data_offset;
  if (found != header.data_bytes) {
    throw DataError(path + ": expected " + std::to_string(header.data_bytes) + " bytes of data for the shape " +
                    shape_text(header.shape) + " of '" + header.type + "', got " + std::to_string(found) +
                    (found < header.data_bytes ? ": the file is cut short" : ""));
  }
  return header;
}

}  // namespace torchfeed::datasets
