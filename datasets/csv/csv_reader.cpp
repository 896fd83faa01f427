#include <torchfeed/datasets/csv/block_pipeline.h>
#include <torchfeed/datasets/csv/csv_block.h>
#include <torchfeed/datasets/csv/csv_plan.h>
#include <torchfeed/datasets/csv/csv_reader.h>
#include <torchfeed/datasets/csv/text_source.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace torchfeed::datasets {
namespace {

// The part of a text that tells what its columns are.
constexpr std::size_t kSampleBytes = std::size_t{1} << 18;
// Empty lines before the header are not looked through without end.
constexpr std::size_t kMostSampleBytes = std::size_t{1} << 20;

}  // namespace

/// Puts the blocks together: lines are counted, times compared and missing values filled across them.
class CsvReader::Impl {
 public:
  Impl(std::unique_ptr<csv::TextSource> source, std::string name, const CsvOptions& options)
      : name_(std::move(name)), source_(std::move(source)) {
    auto planned = plan(options);
    source_->skip(planned.header.bytes);
    lines_ = planned.header.lines;
    plan_ = std::move(planned.plan);
    for (const auto& column : plan_.columns) names_.push_back(column.name);
    last_values_.assign(names_.size(), std::nan(""));
    pipeline_.emplace(*source_, plan_, options.block_bytes, options.threads);
  }

  std::optional<ColumnTable> next() {
    while (!ended_) {
      ended_ = true;  // unless all goes well
      auto block = pipeline_->next();
      if (!block) {
        if (rows_ == 0) throw DataError(name_ + ": expected bars after the header line, got " + none());
        return std::nullopt;
      }
      auto table = take(std::move(*block));
      ended_ = false;
      if (table.size() == 0) continue;
      rows_ += table.size();
      return table;
    }
    return std::nullopt;
  }

  void set_last_values(std::vector<double> values, std::int64_t time) {
    if (values.size() != names_.size()) {
      throw std::invalid_argument("CsvReader::set_last_values: expected " + std::to_string(names_.size()) +
                                  " numbers, got " + std::to_string(values.size()));
    }
    last_values_ = std::move(values);
    known_time_ = time;
  }

  csv::BlockPipeline& pipeline() { return *pipeline_; }
  const csv::CsvPlan& plan() const { return plan_; }
  const std::vector<std::string>& names() const { return names_; }
  const csv::TextSource& source() const { return *source_; }
  std::uint64_t dropped() const { return dropped_; }
  std::uint64_t filled() const { return filled_; }

 private:
  csv::PlannedCsv plan(const CsvOptions& options) {
    for (std::size_t bytes = kSampleBytes; bytes <= kMostSampleBytes; bytes *= 2) {
      const auto sample = source_->peek(bytes);
      auto planned = csv::plan_csv(sample, sample.size() < bytes, name_, options);
      if (planned) return std::move(*planned);
    }
    throw DataError(name_ + ": expected a header line in the first " + std::to_string(kMostSampleBytes) +
                    " bytes, got empty lines");
  }

  std::string none() const {
    return dropped_ == 0 ? "none" : "none that is complete (" + std::to_string(dropped_) + " left out)";
  }

  // `base`: added to the number of the earlier line.
  [[noreturn]] void fail(std::uint64_t line, const csv::LineFault& fault, std::uint64_t base) const {
    std::string message = name_ + ':' + std::to_string(line) + ": " + fault.message;
    if (fault.earlier_line) message += std::to_string(*fault.earlier_line + base) + fault.rest;
    throw DataError(message);
  }

  ColumnTable take(csv::ParsedBlock block) {
    const std::uint64_t base = lines_ + 1;
    if (last_ && block.first && block.first->time <= last_->time) {
      fail(base + block.first->line, csv::order_fault(plan_, *last_, block.first_text), 0);
    }
    ColumnTable table{std::move(block.times), names_, std::move(block.values)};
    // A fault of filled rows lies before the block's own.
    if (plan_.missing == MissingValues::kForwardFill) fill(table, block.hole_lines);
    if (block.fault) fail(base + block.fault->line, block.fault->fault, base);
    if (block.last) last_ = csv::LineTime{block.last->time, base + block.last->line};
    lines_ += block.lines;
    dropped_ += block.dropped;
    return table;
  }

  // Rows before a column's first value cannot be filled and go.
  void fill(ColumnTable& table, const std::vector<std::uint64_t>& hole_lines) {
    if (!hole_lines.empty() || !complete_) {
      std::size_t kept = 0;
      auto hole_line = hole_lines.begin();
      for (std::size_t row = 0; row < table.size(); ++row) {
        const bool has_holes =
            std::any_of(table.values.begin(), table.values.end(), [&](const auto& c) { return std::isnan(c[row]); });
        const bool whole = fill_row(table, row);
        if (has_holes && whole) check_filled(table, row, *hole_line);
        if (has_holes) ++hole_line;
        if (!whole) {
          ++dropped_;
          continue;
        }
        table.times[kept] = table.times[row];
        for (auto& column : table.values) column[kept] = column[row];
        ++kept;
      }
      table.times.resize(kept);
      for (auto& column : table.values) column.resize(kept);
    } else if (table.size() > 0) {
      for (std::size_t c = 0; c < names_.size(); ++c) last_values_[c] = table.values[c].back();
    }
  }

  bool fill_row(ColumnTable& table, std::size_t row) {
    bool whole = true;
    for (std::size_t c = 0; c < names_.size(); ++c) {
      double& value = table.values[c][row];
      if (std::isnan(value) && !std::isnan(last_values_[c])) {
        value = last_values_[c];
        ++filled_;
      }
      last_values_[c] = value;
      whole = whole && !std::isnan(value);
    }
    complete_ = complete_ || whole;
    return whole;
  }

  // Filled values are prices of the row before; of those of one row they may not go with its others.
  void check_filled(const ColumnTable& table, std::size_t row, std::uint64_t line) const {
    if (!plan_.high || !plan_.low || table.times[row] <= known_time_) return;
    const double high = table.values[*plan_.high][row];
    const double low = table.values[*plan_.low][row];
    if (high < low) {
      std::ostringstream text;
      text << name_ << ':' << lines_ + 1 + line << ": column '" << names_[*plan_.high]
           << "': expected a high not below the low once the missing one is filled, got " << high << " below " << low;
      throw DataError(text.str());
    }
  }

  std::string name_;
  std::unique_ptr<csv::TextSource> source_;
  csv::CsvPlan plan_;
  std::vector<std::string> names_;
  bool ended_ = false;
  std::uint64_t lines_ = 0;  // so far
  std::uint64_t rows_ = 0;
  std::uint64_t dropped_ = 0;
  std::uint64_t filled_ = 0;
  std::optional<csv::LineTime> last_;  // its line counted from 1
  std::vector<double> last_values_;    // of each column; NaN before the first
  std::int64_t known_time_ = std::numeric_limits<std::int64_t>::min();
  bool complete_ = false;  // whether each column has had a value
  std::optional<csv::BlockPipeline> pipeline_;
};

namespace {

const CsvOptions& checked(const CsvOptions& options) {
  csv::check_options(options);
  return options;
}

}  // namespace

CsvReader::CsvReader(const std::string& path, const CsvOptions& options) {
  csv::check_options(options);
  impl_ = std::make_unique<Impl>(csv::source_of_file(path), path, options);
}

CsvReader::CsvReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CsvReader::~CsvReader() = default;
CsvReader::CsvReader(CsvReader&&) noexcept = default;
CsvReader& CsvReader::operator=(CsvReader&&) noexcept = default;

CsvReader CsvReader::from_text(std::string_view text, const std::string& name, const CsvOptions& options) {
  return CsvReader(std::make_unique<Impl>(csv::source_of_text(text), name, checked(options)));
}

const std::vector<std::string>& CsvReader::columns() const { return impl_->names(); }
const std::string& CsvReader::time_column() const { return impl_->plan().time_name; }
const std::vector<std::string>& CsvReader::skipped_columns() const { return impl_->plan().skipped; }
void CsvReader::set_last_values(std::vector<double> values, std::int64_t time) {
  impl_->set_last_values(std::move(values), time);
}
std::optional<ColumnTable> CsvReader::next() { return impl_->next(); }
std::future<void> CsvReader::async(std::function<void()> work) { return impl_->pipeline().async(std::move(work)); }
void CsvReader::wait(const std::future<void>& work) { impl_->pipeline().wait(work); }
std::uint64_t CsvReader::dropped_rows() const { return impl_->dropped(); }
std::uint64_t CsvReader::filled_values() const { return impl_->filled(); }
std::uint64_t CsvReader::bytes_read() const { return impl_->source().bytes_read(); }
std::uint64_t CsvReader::bytes_total() const { return impl_->source().bytes_total(); }

ColumnTable read_csv(const std::string& path, const CsvOptions& options) {
  CsvReader reader(path, options);
  ColumnTable all;
  all.names = reader.columns();
  all.values.resize(all.names.size());
  while (auto table = reader.next()) {
    all.times.insert(all.times.end(), table->times.begin(), table->times.end());
    for (std::size_t c = 0; c < all.values.size(); ++c) {
      all.values[c].insert(all.values[c].end(), table->values[c].begin(), table->values[c].end());
    }
  }
  return all;
}

}  // namespace torchfeed::datasets
