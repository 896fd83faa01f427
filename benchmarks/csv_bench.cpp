/// Makes a CSV file of minute bars and converts it with bin/convert: megabytes of CSV a second and the most memory, by
/// 1 and by 2 workers in turn, and beside pandas.read_csv where Python has it. Prints a table. Each figure begins with
/// a fixed cost, that of a file of a few bars: it is told, and left out in the columns "converting".

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Options {
  double megabytes = 2000;
  std::string folder = fs::temp_directory_path();
  std::vector<int> workers = {1, 2};
  int repeats = 3;
  std::string features;  // convert's default if empty
  bool pandas = true;
  /// 0: as many as of the others.
  int pandas_repeats = 0;
};

/// What a process took.
struct Taken {
  bool ended = false;   // with exit code 0
  double seconds = 0;   // by the clock
  double computed = 0;  // by all its threads, of processors
  double peak_mb = 0;   // of resident memory
};

/// Runs a program to its end, its output thrown away.
Taken run(std::vector<std::string> command) {
  const auto begin = std::chrono::steady_clock::now();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) {
    if (std::freopen("/dev/null", "w", stdout) == nullptr) ::_exit(127);
    std::vector<char*> arguments;
    for (auto& argument : command) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  ::wait4(pid, &status, 0, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  Taken taken;
  taken.ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  taken.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  taken.computed = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  taken.peak_mb = static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
  return taken;
}

/// Text that grows into a file. Numbers go in digit by digit, as printf would take longer than the conversion.
class BarText {
 public:
  explicit BarText(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "we"), &std::fclose) {
    if (!file_) fail();
    add("date,open,high,low,close,volume\n");
  }

  void add(std::string_view text) { text_ += text; }
  /// `digits` digits at least, with zeros before.
  void add(std::uint64_t number, std::ptrdiff_t digits = 1) {
    char buffer[24];
    const char* end = std::to_chars(buffer, buffer + sizeof(buffer), number).ptr;
    for (std::ptrdiff_t i = end - buffer; i < digits; ++i) text_ += '0';
    text_.append(buffer, static_cast<std::size_t>(end - buffer));
  }
  /// In millionths.
  void add_price(std::uint64_t price) {
    add(",");
    add(price / 1'000'000);
    add(".");
    add(price % 1'000'000, 6);
  }
  /// To the file, if there is enough of it, or if `all`.
  void flush(bool all = false) {
    if (!all && text_.size() < (std::size_t{1} << 20)) return;
    if (std::fwrite(text_.data(), 1, text_.size(), file_.get()) != text_.size()) fail();
    if (all && std::fflush(file_.get()) != 0) fail();
    written_ += text_.size();
    text_.clear();
  }
  std::uint64_t bytes() const { return written_ + text_.size(); }

 private:
  [[noreturn]] void fail() const { throw std::runtime_error(path_ + ": cannot write"); }

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string text_;
  std::uint64_t written_ = 0;
};

/// A random walk, a bar a minute, until the file has so many bytes.
void write_bars(const std::string& path, double bytes) {
  BarText text(path);
  std::mt19937_64 random(1);
  std::uint64_t price = 1'469'250'000;
  std::string day;
  for (std::uint64_t minute = 0; static_cast<double>(text.bytes()) < bytes; ++minute) {
    if (minute % 1440 == 0) {
      const auto date = std::chrono::year_month_day(std::chrono::sys_days(std::chrono::days(10959 + minute / 1440)));
      char buffer[32];
      std::snprintf(buffer, sizeof(buffer), "%04d-%02u-%02uT", static_cast<int>(date.year()),
                    static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()));
      day = buffer;
    }
    const std::uint64_t drawn = random();
    const std::uint64_t open = price;
    // Up or down by at most 0.1 %, and back from the ends of a range.
    const std::uint64_t step = price / 1000 * (drawn % 1024) / 1024;
    const bool up = price < 100'000'000 || (price < 10'000'000'000 && (drawn >> 10) % 2 == 0);
    price = up ? price + step : price - step;
    text.add(day);
    text.add(minute / 60 % 24, 2);
    text.add(":");
    text.add(minute % 60, 2);
    text.add(":00Z");
    text.add_price(open);
    text.add_price(std::max(open, price) + 200'000 + (drawn >> 11) % 100'000);
    text.add_price(std::min(open, price) - 200'000 - (drawn >> 28) % 100'000);
    text.add_price(price);
    text.add(",");
    text.add((drawn >> 34) % 1'000'000'000);
    text.add("\n");
    text.flush();
  }
  text.flush(/*all=*/true);
}

double median(const std::vector<Taken>& runs, double Taken::*figure) {
  std::vector<double> values;
  for (const auto& one : runs) values.push_back(one.*figure);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// `alone`: seconds of the first row. `start`: seconds that the program takes before and after its work.
void print(const std::string& name, const std::vector<Taken>& runs, double megabytes, double alone, double start) {
  const double seconds = median(runs, &Taken::seconds);
  std::printf("%-22s %8.2f %8.0f %8.2f %12.0f %8.2f %8.2f %8.0f\n", name.c_str(), seconds, megabytes / seconds,
              alone / seconds, megabytes / (seconds - start), (alone - start) / (seconds - start),
              median(runs, &Taken::computed), median(runs, &Taken::peak_mb));
}

/// The rows of numbers in a pandas frame, if any Python here has pandas.
std::vector<Taken> measure_pandas(const std::string& csv, int repeats) {
  const std::string program =
      "import pandas, sys\n"
      "f = pandas.read_csv(sys.argv[1], parse_dates=['date'])\n"
      "f[['open', 'high', 'low', 'close', 'volume']].to_numpy('float32')\n";
  std::vector<Taken> runs;
  for (const std::string python : {"python3", "/usr/bin/python3"}) {
    const std::string probe = "import importlib.util, sys\nsys.exit(importlib.util.find_spec('pandas') is None)";
    if (!run({python, "-c", probe}).ended) continue;
    for (int i = 0; i < repeats; ++i) {
      const auto taken = run({python, "-c", program, csv});
      if (!taken.ended) throw std::runtime_error(python + " failed");
      runs.push_back(taken);
    }
    break;
  }
  return runs;
}

/// Converts by each number of workers in turn, so that what else the machine does hits all alike.
void measure(const Options& options, const std::string& convert, const std::string& folder) {
  const std::string csv = folder + "/bars.csv";
  const auto convert_by = [&](const std::string& file, int workers) {
    fs::remove_all(folder + "/out");
    std::vector<std::string> command = {convert,   file,        folder + "/out",
                                        "--quiet", "--workers", std::to_string(workers)};
    if (!options.features.empty()) command.insert(command.end(), {"--features", options.features});
    const auto taken = run(command);
    if (!taken.ended) throw std::runtime_error(convert + " failed");
    return taken;
  };
  std::vector<Taken> starts;
  std::vector<std::vector<Taken>> runs(options.workers.size());
  for (int i = 0; i < options.repeats; ++i) {
    starts.push_back(convert_by(folder + "/few.csv", 1));
    for (std::size_t w = 0; w < options.workers.size(); ++w) runs[w].push_back(convert_by(csv, options.workers[w]));
  }
  const double megabytes = static_cast<double>(fs::file_size(csv)) / 1e6;
  const double start = median(starts, &Taken::seconds);
  const double alone = median(runs[0], &Taken::seconds);
  std::printf("%.0f MB of minute bars, medians of %d runs\n%-22s %8s %8s %8s %12s %8s %8s %8s\n", megabytes,
              options.repeats, "", "s", "MB/s", "speed-up", "converting", "speed-up", "CPU s", "peak MB");
  std::printf("%-22s %8.2f %38s %8.2f %8.0f\n", "convert, a few bars", start, "", median(starts, &Taken::computed),
              median(starts, &Taken::peak_mb));
  for (std::size_t w = 0; w < options.workers.size(); ++w) {
    print("convert --workers " + std::to_string(options.workers[w]), runs[w], megabytes, alone, start);
  }
  if (!options.pandas) return;
  std::fflush(stdout);  // before there is a child that has it, too
  const auto pandas = measure_pandas(csv, options.pandas_repeats > 0 ? options.pandas_repeats : options.repeats);
  if (pandas.empty()) {
    std::printf("%-22s %8s\n", "pandas.read_csv", "not here");
  } else {
    print("pandas.read_csv", pandas, megabytes, alone, 0);
  }
}

int run_bench(int argc, char** argv) {
  Options options;
  CLI::App app("Measures bin/convert on a CSV file of minute bars that it makes, and removes both.");
  app.add_option("--megabytes", options.megabytes, "Size of the file")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app.add_option("--folder", options.folder, "Where to make it")->check(CLI::ExistingDirectory)->capture_default_str();
  app.add_option("--workers", options.workers, "Numbers of workers")->delimiter(',')->check(CLI::Range(1, 256));
  app.add_option("--repeats", options.repeats, "Runs of each")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--features", options.features, "As bin/convert takes them");
  app.add_option("--pandas-repeats", options.pandas_repeats, "Runs of pandas (default: as many as of the others)")
      ->check(CLI::Range(1, 1000));
  app.add_flag("!--no-pandas", options.pandas, "Leaves pandas out");
  CLI11_PARSE(app, argc, argv);
  std::string folder = options.folder + "/csv_bench-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error(folder + ": cannot make the folder");
  const auto remove = [](const std::string* path) {
    std::error_code ignored;
    fs::remove_all(*path, ignored);
  };
  const std::unique_ptr<const std::string, decltype(remove)> remover(&folder, remove);
  write_bars(folder + "/few.csv", 10'000);
  write_bars(folder + "/bars.csv", options.megabytes * 1e6);
  const auto convert = fs::read_symlink("/proc/self/exe").parent_path() / "convert";
  measure(options, convert, folder);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_bench(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "csv_bench: %s\n", error.what());
    return 2;
  }
}
