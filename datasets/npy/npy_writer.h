#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace torchfeed::datasets {

/// Writes an array of NumPy's .npy format 1.0 (numpy.lib.format), row by row, to a new file.
///
/// The header takes 128 bytes, whatever the shape, so that rows can be written before their number is known, and the
/// array begins at a multiple of 64 bytes. C order, little endian. Throws std::system_error that names the file where
/// the system refuses (a full disk). For one thread at a time, but `write_at`.
class NpyWriter {
 public:
  /// Makes the file, which must not exist. `descr`: NumPy's name of the type, as "<f4". `row_shape`: sizes of all
  /// dimensions but the first; none for a vector. `element_bytes`: of one number.
  NpyWriter(std::string path, std::string descr, std::vector<std::int64_t> row_shape, std::size_t element_bytes);
  /// Takes over a file of `rows` rows that this class wrote, with the same type and shape, and goes on behind them.
  /// Throws `DataError` if the file is another.
  static NpyWriter append_to(std::string path, std::string descr, std::vector<std::int64_t> row_shape,
                             std::size_t element_bytes, std::int64_t rows);
  ~NpyWriter();
  NpyWriter(NpyWriter&& other) noexcept;
  NpyWriter& operator=(NpyWriter&&) = delete;

  /// Takes the place of `count` rows behind all others, which `write_at` has to fill, and gives the first one's number.
  std::int64_t reserve(std::int64_t count);
  /// Writes whole rows from `row` on, where they have their place. Any thread, and several at a time.
  void write_at(std::int64_t row, std::span<const std::byte> rows) const;
  /// The rows before `end_row` are written: the system may be asked to begin with the disk, so that `finish` waits
  /// less.
  void written_up_to(std::int64_t end_row);

  /// Adds whole rows, all three of the above in one; std::invalid_argument for parts of rows.
  void write(std::span<const std::byte> rows);
  template <typename T>
  void write(const std::vector<T>& rows) {
    write(std::as_bytes(std::span<const T>(rows)));
  }

  std::int64_t rows() const { return rows_; }
  std::size_t row_bytes() const { return row_bytes_; }

  /// Writes the header, forces all to the disk and closes the file. Without this it is no .npy file.
  void finish();

  /// The header of an array with `rows` rows: 128 bytes.
  static std::string header(const std::string& descr, const std::vector<std::int64_t>& row_shape, std::int64_t rows);
  static constexpr std::size_t kHeaderBytes = 128;

 private:
  NpyWriter(std::string path, std::string descr, std::vector<std::int64_t> row_shape, std::size_t element_bytes,
            int open_flags, std::int64_t rows);
  void put(std::uint64_t offset, const char* bytes, std::size_t count) const;
  std::uint64_t offset_of(std::int64_t row) const;
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  std::string descr_;
  std::vector<std::int64_t> row_shape_;
  std::size_t row_bytes_;
  int fd_ = -1;
  std::int64_t rows_ = 0;
  std::uint64_t flushed_ = 0;  // bytes of the file that the system was asked to write to the disk
};

}  // namespace torchfeed::datasets
