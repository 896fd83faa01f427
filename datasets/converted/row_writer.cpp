#include <torchfeed/datasets/converted/row_writer.h>
#include <torchfeed/datasets/csv/csv_time.h>
#include <torchfeed/datasets/data_error.h>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <fstream>
#include <utility>

namespace torchfeed::datasets::converted {
namespace {

std::string descr_of(RowType type) { return std::string("<") + npy_type_of(type); }

std::size_t bytes_of(RowType type) { return type == RowType::kFloat32 ? sizeof(float) : sizeof(std::uint16_t); }

NpyWriter open_array(const std::filesystem::path& path, const std::string& descr,
                     const std::vector<std::int64_t>& row_shape, std::size_t bytes, std::int64_t rows) {
  return rows == 0 ? NpyWriter(path.string(), descr, row_shape, bytes)
                   : NpyWriter::append_to(path.string(), descr, row_shape, bytes, rows);
}

// The statistics that the directory holds of `rows` rows.
RowStatistics open_statistics(const std::filesystem::path& directory, std::size_t columns, std::int64_t rows) {
  if (rows == 0) return RowStatistics(columns);
  return {columns, rows, read_numbers(directory / kStatisticsFile)};
}

void write_numbers(const std::filesystem::path& path, const std::vector<std::int64_t>& row_shape,
                   const std::vector<double>& numbers) {
  std::filesystem::remove(path);  // that of the rows before
  NpyWriter writer(path.string(), "<f8", row_shape, sizeof(double));
  writer.write(numbers);
  writer.finish();
}

}  // namespace

RowWriter::RowWriter(const std::filesystem::path& directory, std::vector<std::string> columns, RowType type,
                     const std::string& name, std::int64_t rows)
    : directory_(directory),
      columns_(std::move(columns)),
      type_(type),
      name_(name),
      rows_(open_array(directory / kRowsFile, descr_of(type), {static_cast<std::int64_t>(columns_.size())},
                       bytes_of(type), rows)),
      times_(open_array(directory / kTimesFile, "<i8", {}, sizeof(std::int64_t), rows)),
      statistics_(open_statistics(directory, columns_.size(), rows)) {}

std::int64_t RowWriter::reserve(std::int64_t count) {
  times_.reserve(count);
  return rows_.reserve(count);
}

void RowWriter::put(std::int64_t row, std::span<float> rows, std::span<const std::int64_t> times) const {
  if (type_ == RowType::kFloat32) {
    rows_.write_at(row, std::as_bytes(rows));
  } else {
    rows_.write_at(row, std::as_bytes(std::span<const std::uint16_t>(narrow(rows, times))));
  }
  times_.write_at(row, std::as_bytes(times));
}

void RowWriter::add(std::span<const float> rows) {
  statistics_.add(rows);
  rows_.written_up_to(statistics_.rows());
  times_.written_up_to(statistics_.rows());
}

// To 16 bits; `rows` are then what these stand for.
std::vector<std::uint16_t> RowWriter::narrow(std::span<float> rows, std::span<const std::int64_t> times) const {
  std::vector<std::uint16_t> narrow(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float value = rows[i];
    if (type_ == RowType::kFloat16) {
      const c10::Half half(value);
      narrow[i] = half.x;
      rows[i] = half;
    } else {
      const c10::BFloat16 half(value);
      narrow[i] = half.x;
      rows[i] = half;
    }
    if (!std::isfinite(rows[i])) {
      throw DataError(name_ + ": column '" + columns_[i % columns_.size()] + "': expected a number that " +
                      name_of(type_) + " can hold, got " + std::to_string(value) + " at " +
                      csv::format_time(times[i / columns_.size()]) + " (leave the column out, or take another type)");
    }
  }
  return narrow;
}

void RowWriter::finish(const std::vector<double>& state) {
  rows_.finish();
  times_.finish();
  write_numbers(directory_ / kStatisticsFile, {static_cast<std::int64_t>(columns_.size()), 2}, statistics_.blocks());
  write_numbers(directory_ / kStateFile, {}, state);
}

std::vector<double> read_numbers(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<std::streamoff>(file.tellg());
  const auto header = static_cast<std::streamoff>(NpyWriter::kHeaderBytes);
  const auto width = static_cast<std::streamoff>(sizeof(double));
  if (!file || size < header || (size - header) % width != 0) {
    throw DataError(path.string() + ": expected an array of numbers that torchfeed has written, got none");
  }
  std::vector<double> numbers(static_cast<std::size_t>((size - header) / width));
  file.seekg(header);
  file.read(reinterpret_cast<char*>(numbers.data()), size - header);
  if (!file) throw DataError(path.string() + ": expected " + std::to_string(size) + " readable bytes, got fewer");
  return numbers;
}

}  // namespace torchfeed::datasets::converted
