#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/program_run.h"
#include "support/temp_dir.h"

namespace torchfeed::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kPrices = std::string(TORCHFEED_DATA_DIR) + "/sp500.csv";

/// How the program ended and what it said.
struct Ended {
  int code = 0;
  std::string out;
  std::string err;
};

std::vector<std::string> command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::string(TORCHFEED_PROGRAM_DIR) + "/convert");
  return arguments;
}

class ConvertProgramTest : public ::testing::Test {
 protected:
  Ended run(const std::vector<std::string>& arguments, const ProgramOptions& options = {}) const {
    ProgramRun program(command(arguments), dir_.file("run"), options);
    const int code = program.wait();
    return {code, program.out(), program.err()};
  }

  /// Three bars of an instrument.
  std::string bars(const std::string& name) const {
    return dir_.write(name, "date,close,venue\n2020-01-02,1,X\n2020-01-03,2,X\n2020-01-06,1,X\n");
  }

  std::vector<std::string> files_in_out() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_.file("out"))) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  TempDir dir_;
};

/// A pipe with a name, whose writer is this test.
class Fifo {
 public:
  explicit Fifo(const std::string& path) : path_(path) {
    EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0);
    // Both ends, so that opening does not wait.
    fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(fd_, 0);
  }
  ~Fifo() { ::close(fd_); }

  void write(const std::string& text) const {
    EXPECT_EQ(::write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

 private:
  std::string path_;
  int fd_ = -1;
};

/// More minute bars than a block of the reader holds.
std::string blocks_of_bars() {
  std::string text = "date,close\n";
  for (int i = 0; text.size() < (std::size_t{3} << 20); ++i) text += std::to_string(1609459200 + 60 * i) + ",1.25\n";
  return text;
}

/// Whether `path` comes to be within a minute.
bool appears(const std::string& path) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!fs::exists(path) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fs::exists(path);
}

TEST_F(ConvertProgramTest, ConvertsManyFilesAndSaysWhatItHasMade) {
  const auto ended = run({bars("A.csv"), kPrices, bars("B.csv"), dir_.file("out"), "--workers", "2"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(files_in_out(), (std::vector<std::string>{"A", "B", "sp500"}));
  EXPECT_NE(ended.out.find(dir_.file("out/A") + ": 2 rows of 2 columns from 3 bars: close, log_return\n"
                                                "  passed over: venue\n"),
            std::string::npos)
      << ended.out;
  EXPECT_NE(ended.err.find(" MB in "), std::string::npos) << ended.err;
}

TEST_F(ConvertProgramTest, MakesTheSameWithOneWorkerAndSeveral) {
  EXPECT_EQ(run({kPrices, dir_.file("one"), "--workers", "1", "--quiet"}).err, "");
  EXPECT_EQ(run({kPrices, dir_.file("two"), "--workers", "2", "--quiet"}).code, 0);
  for (const char* file : {"rows.npy", "times.npy", "statistics.npy", "meta.json"}) {
    const std::string name = std::string("/sp500/") + file;
    EXPECT_EQ(read_text(dir_.file("one") + name), read_text(dir_.file("two") + name)) << file;
  }
}

TEST_F(ConvertProgramTest, NumPyMapsWhatItHasMade) {
  const std::string python =
      "import sys\ntry:\n  import numpy as np\nexcept ImportError:\n  sys.exit(77)\n"
      "x = np.load(sys.argv[1] + '/rows.npy', mmap_mode='r')\n"
      "t = np.load(sys.argv[1] + '/times.npy', mmap_mode='r')\n"
      "s = np.load(sys.argv[1] + '/statistics.npy')\n"
      "assert isinstance(x, np.memmap) and x.shape == (5104, 10) and x.dtype == np.float32, x\n"
      "assert x.offset % 64 == 0 and x.flags['C_CONTIGUOUS']\n"
      "assert t.shape == (5104,) and t.dtype == np.int64\n"
      "assert str(t[0].astype('datetime64[ns]').astype('datetime64[D]')) == '2000-01-04'\n"
      "assert s.shape == (1, 10, 2) and np.allclose(s[0, :, 0], x.astype('f8').mean(0), rtol=1e-9)\n"
      "print(x[-1, 3])\n";
  ASSERT_EQ(run({kPrices, dir_.file("out"), "--quiet"}).code, 0);
  for (const char* interpreter : {"python3", "/usr/bin/python3"}) {
    ProgramRun program({interpreter, "-c", python, dir_.file("out/sp500")}, dir_.file("python"));
    const int code = program.wait();
    if (code == 77 || code == 127) continue;
    EXPECT_EQ(code, 0) << program.err();
    EXPECT_EQ(program.out(), "2874.56\n");
    return;
  }
  GTEST_SKIP() << "no python3 with NumPy here";
}

TEST_F(ConvertProgramTest, TakesItsOptions) {
  const auto path =
      dir_.write("x.csv", "t;close;volume;a\n1577957400000;1;5;1\n1577957460000;;6;2\n1577957520000;3;7;\n");
  const auto ended = run({"--features", "log_return,sma_2", "--columns", "close, a", "--dtype", "bf16", "--missing",
                          "ffill", "--time-column", "t", "--time-format", "ms", "--delimiter", ";", "--instrument",
                          "mine", "--quiet", path, dir_.file("out")});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_NE(ended.out.find("2 missing values filled"), std::string::npos) << ended.out;
  const auto meta = json::parse(read_text(dir_.file("out/mine/meta.json")));
  EXPECT_EQ(meta["columns"], json({"close", "a", "log_return", "sma_2"}));
  EXPECT_EQ(meta["dtype"], "bfloat16");
  const auto plain = run({bars("p.csv"), dir_.file("out"), "--features", "none", "--time-zone", "+05:30", "--quiet"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(json::parse(read_text(dir_.file("out/p/meta.json")))["time_zone"], "+05:30");
}

TEST_F(ConvertProgramTest, AppendsNewBars) {
  const auto path = bars("A.csv");
  ASSERT_EQ(run({path, dir_.file("out"), "--append"}).code, 0);
  dir_.write("A.csv", read_text(path) + "2020-01-07,4,X\n");
  const auto ended = run({path, dir_.file("out"), "--append"});
  EXPECT_EQ(ended.out.substr(0, ended.out.find(" of 2 columns")), dir_.file("out/A") + ": 3 rows, 1 of them new,");
  dir_.write("A.csv", "date,close\n2020-01-03,2\n2020-01-04,2\n2020-01-07,4\n2020-01-08,4\n");
  EXPECT_NE(
      run({path, dir_.file("out"), "--append"}).out.find("  1 bars that were not there, but are before the last one"),
      std::string::npos);
}

TEST_F(ConvertProgramTest, ConvertsTheGoodFilesAndNamesTheOthers) {
  const auto bad = dir_.write("bad.csv", "date,close\n2020-01-02,1\n2020-01-03,n/a\n");
  const auto ended = run({bad, bars("A.csv"), dir_.file("none.csv"), dir_.file("out"), "--quiet"});
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.err, "convert: " + bad + ":3: column 'close': expected a number, got 'n/a'\nconvert: " +
                           dir_.file("none.csv") + ": expected a readable CSV file, got: No such file or directory\n" +
                           "convert: 2 of 3 files could not be converted\n");
  EXPECT_EQ(files_in_out(), std::vector<std::string>{"A"});
}

TEST_F(ConvertProgramTest, RefusesWhatItDoesNotUnderstand) {
  const auto refused = [&](const std::vector<std::string>& arguments) {
    const auto ended = run(arguments);
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
    return ended.err;
  };
  const auto path = bars("A.csv");
  EXPECT_EQ(refused({path}), "convert: expected CSV files and a folder for the results, got one path\n");
  fs::create_directories(dir_.file("sub"));
  EXPECT_EQ(
      refused({path, bars("sub/A.csv"), dir_.file("out")}),
      "convert: " + dir_.file("sub/A.csv") + ": expected files of different names, got 'A' from " + path + " too\n");
  EXPECT_NE(refused({path, dir_.file("out"), "--quiet", "--features", "sma_0"}).find("sma"), std::string::npos);
  EXPECT_NE(refused({path, dir_.file("out"), "--dtype", "f64"}).find("--dtype"), std::string::npos);
  EXPECT_NE(refused({path, path}).find("A.csv: cannot make the folder"), std::string::npos);
}

TEST_F(ConvertProgramTest, TellsOfAFullDiskAndLeavesWhatIsThere) {
  const auto path = bars("A.csv");
  ASSERT_EQ(run({path, dir_.file("out")}).code, 0);
  const std::string before = read_text(dir_.file("out/A/rows.npy"));
  dir_.write("A.csv", read_text(kPrices));
  const auto ended = run({path, dir_.file("out"), "--quiet"}, {.largest_file = 100'000});
  EXPECT_EQ(ended.code, 2);
  EXPECT_NE(ended.err.find("rows.npy: cannot write: File too large"), std::string::npos) << ended.err;
  EXPECT_EQ(files_in_out(), std::vector<std::string>{"A"});
  EXPECT_EQ(read_text(dir_.file("out/A/rows.npy")), before);
}

TEST_F(ConvertProgramTest, ConvertsManyFilesByManyWorkersWithFewDescriptors) {
  std::vector<std::string> arguments;
  for (int i = 0; i < 100; ++i) arguments.push_back(bars(std::to_string(i) + ".csv"));
  arguments.insert(arguments.end(), {dir_.file("out"), "--workers", "64", "--quiet"});
  const auto ended = run(arguments, {.most_descriptors = 32});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(files_in_out().size(), 100u);
}

TEST_F(ConvertProgramTest, RefusesAPlaceThatAnotherConversionWrites) {
  const Fifo pipe(dir_.file("pipe"));
  pipe.write("date,close\n2021-01-02,1\n2021-01-03,2\n");
  ProgramRun first(command({dir_.file("pipe"), dir_.file("out"), "--instrument", "A"}), dir_.file("first"));
  ASSERT_TRUE(appears(dir_.file("out/.A.torchfeed-tmp")));
  const auto second = run({bars("A.csv"), bars("B.csv"), dir_.file("out"), "--quiet"});
  EXPECT_EQ(second.code, 2);
  EXPECT_EQ(second.err, "convert: " + dir_.file("out/A") +
                            ": another conversion is writing it\nconvert: 1 of 2 files could not be converted\n");
  EXPECT_EQ(files_in_out(), (std::vector<std::string>{".A.torchfeed-lock", ".A.torchfeed-tmp", "B"}));
}

TEST_F(ConvertProgramTest, InterruptedItLeavesWhatIsThereAndTheNextRunMakesItWhole) {
  ASSERT_EQ(run({bars("A.csv"), dir_.file("out")}).code, 0);
  const std::string before = read_text(dir_.file("out/A/rows.npy"));
  {
    const Fifo pipe(dir_.file("pipe"));
    ProgramRun program(command({dir_.file("pipe"), dir_.file("out"), "--instrument", "A"}), dir_.file("stopped"));
    pipe.write(blocks_of_bars());
    ASSERT_TRUE(appears(dir_.file("out/.A.torchfeed-tmp/rows.npy")));
    program.signal_group(SIGINT);
    EXPECT_EQ(program.wait(), -SIGINT);
  }
  EXPECT_EQ(read_text(dir_.file("out/A/rows.npy")), before);
  dir_.write("A.csv", read_text(kPrices));
  EXPECT_EQ(run({dir_.file("A.csv"), dir_.file("out"), "--quiet"}).code, 0);
  ASSERT_EQ(run({kPrices, dir_.file("out"), "--quiet"}).code, 0);
  EXPECT_EQ(files_in_out(), (std::vector<std::string>{"A", "sp500"}));
  EXPECT_EQ(read_text(dir_.file("out/A/rows.npy")), read_text(dir_.file("out/sp500/rows.npy")));
}

TEST_F(ConvertProgramTest, StartsWithoutLibTorch) {
  // The loader of libraries lists what it would load.
  ProgramRun program({"env", "LD_TRACE_LOADED_OBJECTS=1", command({})[0]}, dir_.file("libraries"));
  ASSERT_EQ(program.wait(), 0);
  const std::string libraries = program.out();
  EXPECT_NE(libraries.find("libc10"), std::string::npos) << libraries;
  for (const char* library : {"libtorch.so", "libtorch_cpu.so"}) {
    EXPECT_EQ(libraries.find(library), std::string::npos) << libraries;
  }
}

TEST_F(ConvertProgramTest, KilledItLeavesWhatIsThereAndTheNextRunCleansUp) {
  ASSERT_EQ(run({bars("A.csv"), dir_.file("out")}).code, 0);
  const std::string before = read_text(dir_.file("out/A/rows.npy"));
  const Fifo pipe(dir_.file("pipe"));
  {
    ProgramRun program(command({dir_.file("pipe"), dir_.file("out"), "--instrument", "A"}), dir_.file("killed"));
    pipe.write(blocks_of_bars());
    ASSERT_TRUE(appears(dir_.file("out/.A.torchfeed-tmp/rows.npy")));
    program.signal(SIGKILL);
    EXPECT_EQ(program.wait(), -SIGKILL);
  }
  EXPECT_EQ(files_in_out(), (std::vector<std::string>{".A.torchfeed-lock", ".A.torchfeed-tmp", "A"}));
  EXPECT_EQ(read_text(dir_.file("out/A/rows.npy")), before);
  EXPECT_EQ(run({bars("B.csv"), dir_.file("out")}).code, 0);
  EXPECT_EQ(files_in_out(), (std::vector<std::string>{"A", "B"}));
}

TEST_F(ConvertProgramTest, HelpNamesEveryOptionAndFeature) {
  const auto ended = run({"--help"});
  EXPECT_EQ(ended.code, 0);
  for (const char* text :
       {"--features", "--columns", "--dtype", "--append", "--missing", "--time-zone", "--time-column", "--time-format",
        "--delimiter", "--no-price-checks", "--instrument", "--workers", "--quiet", "IN.csv... OUT_DIR", "rsi_N"}) {
    EXPECT_NE(ended.out.find(text), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace torchfeed::testing
