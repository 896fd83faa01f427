#include <torchfeed/datasets/csv/csv_line.h>
#include <torchfeed/datasets/csv/csv_number.h>
#include <torchfeed/datasets/csv/csv_plan.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace torchfeed::datasets::csv {
namespace {

constexpr std::size_t kMaxShownColumns = 16;
constexpr int kMostThreads = 256;
constexpr std::size_t kLargestBlock = std::size_t{1} << 30;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::array<std::string_view, 4> kTimeColumns = {"date", "time", "datetime", "timestamp"};
constexpr std::array<std::string_view, 4> kPriceColumns = {"open", "high", "low", "close"};
constexpr std::string_view kVolumeColumn = "volume";

template <typename Names>
bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_bar_column(std::string_view name) { return contains(kPriceColumns, name) || name == kVolumeColumn; }

Bounds bounds_of(std::string_view name) {
  if (contains(kPriceColumns, name)) return Bounds::kPrice;
  return name == kVolumeColumn ? Bounds::kVolume : Bounds::kNone;
}

[[noreturn]] void refuse(const char* option, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(std::string("CsvOptions: ") + option + ": expected " + expected + ", got " + got);
}

// A quote inside quotes is written twice.
std::string unquoted(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    if (text[i] == '"' && i + 1 < text.size() && text[i + 1] == '"') ++i;
  }
  return out;
}

std::string quoted(std::string_view name) { return '\'' + std::string(name) + '\''; }

/// The header's fields, and what the options want of them.
class Header {
 public:
  Header(const std::vector<std::string_view>& fields, const CsvOptions& options) : options_(options) {
    for (const auto field : fields) {
      written_.push_back(unquoted(field));
      names_.push_back(lower(written_.back()));
      auto& places = places_[names_.back()];
      if (places.size() < 2) places.push_back(names_.size() - 1);
    }
  }

  std::size_t size() const { return names_.size(); }
  const std::string& name(std::size_t field) const { return names_[field]; }
  const std::string& written(std::size_t field) const { return written_[field]; }

  /// Throws LineFault if the name is there twice.
  std::optional<std::size_t> find(std::string_view name) const {
    const auto found = places_.find(std::string(name));
    if (found == places_.end()) return std::nullopt;
    const auto& places = found->second;
    if (places.size() > 1) {
      throw LineFault{"expected each column once, got " + quoted(name) + " as fields " + std::to_string(places[0] + 1) +
                      " and " + std::to_string(places[1] + 1)};
    }
    return places[0];
  }

  std::optional<std::size_t> find_time() const {
    if (!options_.time_column.empty()) return find(lower(options_.time_column));
    for (const auto name : kTimeColumns) {
      if (const auto field = find(name)) return field;
    }
    return std::nullopt;
  }

  /// For "expected a header with ...".
  std::string wanted_time() const {
    if (!options_.time_column.empty()) return quoted(lower(options_.time_column));
    return "'date' (or 'time', 'datetime', 'timestamp')";
  }

  [[noreturn]] void fail(const std::string& missing) const {
    std::string got;
    for (std::size_t i = 0; i < std::min(size(), kMaxShownColumns); ++i) {
      got += (i == 0 ? "" : ", ") + shown(written_[i]);
    }
    if (size() > kMaxShownColumns) got += " and " + std::to_string(size() - kMaxShownColumns) + " more";
    throw LineFault{"expected a header with the columns " + missing + " too, got " + got};
  }

 private:
  const CsvOptions& options_;
  std::vector<std::string> written_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::vector<std::size_t>> places_;  // of a name, the first two
};

/// What the first rows say of columns that the options do not name, and of the times.
class Sample {
 public:
  Sample(std::string_view rows, bool whole, const CsvPlan& plan)
      : rows_(rows), whole_(whole), splitter_(plan.delimiter) {
    fields_ = plan.fields;
  }

  /// Calls `visit(field, text)` for the fields of one row after the other until it gives true for a row, or the text
  /// ends, or there is a fault in it, which is told where the rows are read.
  template <typename Visit>
  void for_rows(Visit visit) {
    while (!rows_.empty()) {
      if (!whole_ && rows_.find('\n') == std::string_view::npos) return;
      const auto line = take_line(rows_);
      if (line.empty()) continue;
      try {
        check_line(line);
        const auto& fields = splitter_.split(line);
        if (fields.size() != fields_ || visit(fields)) return;
      } catch (const LineFault&) {
        return;
      }
    }
  }

 private:
  std::string_view rows_;
  bool whole_;
  LineSplitter splitter_;
  std::size_t fields_;
};

bool is_number(std::string_view text) {
  double value = 0;
  return parse_number(text, value) != NumberFault::kNoNumber;
}

/// Builds the plan from the header line on.
class Planner {
 public:
  Planner(const CsvOptions& options, const std::vector<std::string_view>& fields)
      : options_(options), header_(fields, options) {
    plan_.delimiter = options.delimiter;
    plan_.missing = options.missing;
    plan_.fields = fields.size();
  }

  CsvPlan finish(std::string_view rows, bool whole) {
    find_columns();
    read_sample(rows, whole);
    add_columns();
    return std::move(plan_);
  }

 private:
  enum class Use : std::uint8_t { kNo, kUnknown, kYes };

  // Throws LineFault for what the header lacks.
  void find_columns() {
    const auto time = header_.find_time();
    std::string missing = time ? "" : header_.wanted_time();
    use_.assign(header_.size(), Use::kNo);
    for (const auto& wanted : options_.columns) {
      const auto field = header_.find(lower(wanted));
      if (field) {
        use_[*field] = Use::kYes;
      } else {
        missing += (missing.empty() ? "" : ", ") + quoted(lower(wanted));
      }
    }
    if (!missing.empty()) header_.fail(missing);
    plan_.time_field = *time;
    plan_.time_name = header_.name(*time);
    if (use_[*time] != Use::kNo)
      refuse("columns", "columns of numbers", "that of the times, " + quoted(plan_.time_name));
    if (!options_.columns.empty()) return;
    for (std::size_t i = 0; i < header_.size(); ++i) {
      if (i == *time || header_.name(i).empty()) continue;
      header_.find(header_.name(i));  // only once
      use_[i] = is_bar_column(header_.name(i)) ? Use::kYes : Use::kUnknown;
    }
  }

  void read_sample(std::string_view rows, bool whole) {
    TimeFormat format = options_.time_format;
    Sample(rows, whole, plan_).for_rows([&](const std::vector<std::string_view>& fields) {
      const auto time = fields[plan_.time_field];
      if (format == TimeFormat::kAuto && !time_seen_ && !is_missing(time)) {
        format = detect_time_format(time);
        time_seen_ = true;
      }
      for (std::size_t i = 0; i < fields.size(); ++i) {
        if (use_[i] == Use::kUnknown && !is_missing(fields[i])) use_[i] = is_number(fields[i]) ? Use::kYes : Use::kNo;
      }
      return (time_seen_ || options_.time_format != TimeFormat::kAuto) && !contains(use_, Use::kUnknown);
    });
    plan_.time = TimeParser(format, *zone_seconds(options_));
  }

  static bool contains(const std::vector<Use>& uses, Use use) {
    return std::find(uses.begin(), uses.end(), use) != uses.end();
  }

  void add_columns() {
    const auto add = [&](std::size_t field) {
      const auto& name = header_.name(field);
      plan_.columns.push_back({name, field, options_.check_prices ? bounds_of(name) : Bounds::kNone});
    };
    for (const auto& wanted : options_.columns) add(*header_.find(lower(wanted)));
    for (std::size_t i = 0; i < header_.size(); ++i) {
      if (use_[i] == Use::kYes && options_.columns.empty()) add(i);
      if (use_[i] != Use::kYes && i != plan_.time_field) plan_.skipped.push_back(header_.written(i));
    }
    const auto& columns = plan_.columns;
    for (std::size_t c = 0; c < columns.size() && options_.check_prices; ++c) {
      if (columns[c].name == "high") plan_.high = c;
      if (columns[c].name == "low") plan_.low = c;
    }
    plan_.in_file_order.resize(columns.size());
    std::iota(plan_.in_file_order.begin(), plan_.in_file_order.end(), std::size_t{0});
    std::sort(plan_.in_file_order.begin(), plan_.in_file_order.end(),
              [&](std::size_t a, std::size_t b) { return columns[a].field < columns[b].field; });
  }

  const CsvOptions& options_;
  Header header_;
  CsvPlan plan_;
  std::vector<Use> use_;  // of each field
  bool time_seen_ = false;
};

}  // namespace

std::optional<std::int64_t> zone_seconds(const CsvOptions& options) {
  return options.time_zone.empty() ? std::int64_t{0} : parse_zone(options.time_zone);
}

void check_options(const CsvOptions& options) {
  if (options.threads < 1 || options.threads > kMostThreads) {
    refuse("threads", "1 to " + std::to_string(kMostThreads), std::to_string(options.threads));
  }
  if (options.block_bytes < 1 || options.block_bytes > kLargestBlock) {
    refuse("block_bytes", "1 to " + std::to_string(kLargestBlock), std::to_string(options.block_bytes));
  }
  if (!zone_seconds(options)) {
    refuse("time_zone", "UTC or an offset of at most 18 hours, as +05:30", quoted(options.time_zone));
  }
  const char d = options.delimiter;
  const bool letter = (d >= 'a' && d <= 'z') || (d >= 'A' && d <= 'Z') || (d >= '0' && d <= '9');
  if (letter || (d != '\t' && (d <= 0x20 || d >= 0x7f)) ||
      std::string_view("\"+-._:").find(d) != std::string_view::npos) {
    refuse("delimiter", "a printable character or tab that no number, name or quote has", shown({&d, 1}));
  }
  for (std::size_t i = 0; i < options.columns.size(); ++i) {
    const auto begin = options.columns.begin();
    const auto same = [&](const std::string& other) { return lower(other) == lower(options.columns[i]); };
    if (std::any_of(begin, begin + static_cast<std::ptrdiff_t>(i), same)) {
      refuse("columns", "each name once", quoted(options.columns[i]) + " twice");
    }
  }
}

std::optional<PlannedCsv> plan_csv(std::string_view sample, bool whole, const std::string& name,
                                   const CsvOptions& options) {
  std::string_view rest = sample;
  if (rest.starts_with(kByteOrderMark)) rest.remove_prefix(kByteOrderMark.size());
  std::uint64_t lines = 0;
  while (!rest.empty()) {
    const bool cut = !whole && rest.find('\n') == std::string_view::npos;
    const auto line = take_line(rest);
    ++lines;
    if (line.empty()) continue;
    if (cut && line.size() <= kMaxLineBytes) return std::nullopt;
    try {
      check_line(line, cut);
      LineSplitter splitter(options.delimiter);
      Planner planner(options, splitter.split(line));
      auto plan = planner.finish(rest, whole);
      return PlannedCsv{std::move(plan), {sample.size() - rest.size(), lines}};
    } catch (const LineFault& fault) {
      throw DataError(name + ':' + std::to_string(lines) + ": " + fault.message);
    }
  }
  if (!whole) return std::nullopt;
  throw DataError(name + ": expected a header line, got an empty file");
}

}  // namespace torchfeed::datasets::csv
