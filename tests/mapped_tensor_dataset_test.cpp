// .npy files: what is read of them, and what is refused. MappedTensorDataset over them.

#include "support/npy_file.h"
#include "support/temp_dir.h"

#include <torchfeed/datasets/mapped_tensor_dataset.h>
#include <torchfeed/datasets/npy/npy_array.h>
#include <torchfeed/plugin/data_loader.h>

#include <torch/torch.h>
#include <torch/version.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

namespace torchfeed::datasets {
namespace {

using testing::bytes_of;
using ::testing::HasSubstr;
using testing::npy_dictionary;
using testing::npy_file;
using testing::npy_header;
using ::testing::StartsWith;
using testing::TempDir;

class NpyTest : public ::testing::Test {
 protected:
  std::string fault(const std::string& content) const { return fault_of(dir_.write("a.npy", content)); }

  std::string fault_of(const std::string& path) const {
    try {
      NpyArray array(path);
      array.tensor();
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), StartsWith(path + ": "));
      return error.what();
    }
    return "no error";
  }

  torch::Tensor read(const std::string& content) const { return NpyArray(dir_.write("a.npy", content)).tensor(); }

  TempDir dir_;
};

template <typename T>
void expect_reads(const TempDir& dir, const std::string& descr, torch::ScalarType type, const std::vector<T>& values) {
  const auto path = dir.write("typed.npy", npy_file(descr, "(2, 2)", values));
  const torch::Tensor tensor = NpyArray(path).tensor();
  ASSERT_EQ(tensor.scalar_type(), type) << descr;
  ASSERT_EQ(tensor.sizes(), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(std::string(static_cast<const char*>(tensor.data_ptr()), 4 * sizeof(T)), bytes_of(values)) << descr;
}

TEST_F(NpyTest, ReadsEveryTypeThatLibTorchHas) {
  expect_reads<float>(dir_, "<f4", torch::kFloat32, {1.5F, -2, 3, 4e30F});
  expect_reads<double>(dir_, "<f8", torch::kFloat64, {1.5, -2, 3, 4e300});
  expect_reads<c10::Half>(dir_, "<f2", torch::kFloat16, {1.5F, -2.0F, 3.0F, 4.0F});
  expect_reads<int8_t>(dir_, "|i1", torch::kInt8, {1, -2, 3, -128});
  expect_reads<uint8_t>(dir_, "|u1", torch::kUInt8, {1, 2, 3, 255});
  expect_reads<int16_t>(dir_, "<i2", torch::kInt16, {1, -2, 3, -32768});
  expect_reads<int32_t>(dir_, "<i4", torch::kInt32, {1, -2, 3, 1 << 30});
  expect_reads<int64_t>(dir_, "<i8", torch::kInt64, {1, -2, 3, int64_t{1} << 60});
  expect_reads<char>(dir_, "|b1", torch::kBool, {1, 0, 1, 0});
  expect_reads<c10::complex<float>>(dir_, "<c8", torch::kComplexFloat, {{1, 2}, {3, 4}, {5, 6}, {7, 8}});
  expect_reads<c10::complex<double>>(dir_, "<c16", torch::kComplexDouble, {{1, 2}, {3, 4}, {5, 6}, {7, 8}});
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
  expect_reads<uint16_t>(dir_, "<u2", torch::ScalarType::UInt16, {1, 2, 3, 65535});
#else
  EXPECT_THAT(fault(npy_file<uint16_t>("<u2", "(1,)", {1})), HasSubstr("has no tensors of 'u2'"));
#endif
}

TEST_F(NpyTest, ReadsAllFormatsAndShapesAndWaysToWriteTheHeader) {
  const std::string data = bytes_of<float>({0, 1, 2, 3, 4, 5});
  for (const int major : {1, 2, 3}) {
    EXPECT_TRUE(torch::equal(read(npy_header(npy_dictionary("<f4", "(2, 3)"), major) + data),
                             torch::arange(6, torch::kFloat32).reshape({2, 3})));
  }
  EXPECT_EQ(read(npy_file<float>("<f4", "()", {7})).dim(), 0);
  EXPECT_EQ(read(npy_file<float>("<f4", "(0, 3)", {})).sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(read(npy_header("{\"shape\":(6L,),\"fortran_order\":False,\"descr\":\"=f4\"}") + data).numel(), 6);
  // A vector is in Fortran order, too.
  EXPECT_EQ(read(npy_header("{'descr': '<f4', 'fortran_order': True, 'shape': (6,)}") + data).numel(), 6);
  EXPECT_EQ(read(npy_file<uint8_t>(">u1", "(2,)", {1, 2})).numel(), 2);  // one byte has no order
}

TEST_F(NpyTest, RefusesWhatIsNoPlainFile) {
  EXPECT_THAT(fault_of(dir_.file("none.npy")), HasSubstr("No such file or directory"));
  EXPECT_THAT(fault_of(dir_.path()), HasSubstr("expected a file, got a directory"));
  EXPECT_THAT(fault(""), HasSubstr("got an empty file"));
  ASSERT_EQ(::mkfifo(dir_.file("pipe").c_str(), 0600), 0);
  EXPECT_THAT(fault_of(dir_.file("pipe")), HasSubstr("expected a plain file"));
  EXPECT_THAT(fault("date,open,high,low,close\n"), HasSubstr("which begins with \\x93NUMPY, got 'date,o'"));
}

TEST_F(NpyTest, RefusesAFileCutShortAtAnyByte) {
  const std::string whole = npy_file<float>("<f4", "(2, 3)", {0, 1, 2, 3, 4, 5});
  ASSERT_EQ(fault(whole), "no error");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(fault(whole.substr(0, size)), "no error") << size;
  EXPECT_THAT(fault(whole.substr(0, whole.size() - 1)),
              HasSubstr("expected 24 bytes of data for the shape (2, 3) of 'f4', got 23: the file is cut short"));
  EXPECT_THAT(fault(whole + "more"), HasSubstr("expected 24 bytes of data for the shape (2, 3) of 'f4', got 28"));
}

TEST_F(NpyTest, RefusesOrdersTypesAndFormatsThatItDoesNotRead) {
  const std::string data = bytes_of<double>({1, 2});
  EXPECT_THAT(fault(npy_header("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 2)}") + data),
              HasSubstr("expected C order, got Fortran order"));
  EXPECT_THAT(fault(npy_file<double>(">f8", "(2,)", {1, 2})), HasSubstr("big-endian ones: '>f8'"));
  EXPECT_THAT(fault(npy_file<double>("|O", "(2,)", {1, 2})), HasSubstr("Python objects: '|O'"));
  EXPECT_THAT(fault(npy_file<double>("<U2", "(2,)", {1, 2})), HasSubstr("such as '<f4', got '<U2'"));
  EXPECT_THAT(fault(npy_file<double>("<M8[ns]", "(2,)", {1, 2})), HasSubstr("got '<M8[ns]'"));
  EXPECT_THAT(fault(npy_header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,)}") + data),
              HasSubstr("a structured array"));
  std::string other = npy_file<double>("<f8", "(2,)", {1, 2});
  other[6] = 4;
  EXPECT_THAT(fault(other), HasSubstr("expected .npy format 1.0, 2.0 or 3.0, got 4.0"));
}

TEST_F(NpyTest, RefusesShapesWhoseBytesOverflow) {
  // 2^62 * 4 bytes is 0 in 64 bits, which no file is too small for.
  EXPECT_THAT(fault(npy_file<float>("<f4", "(4611686018427387904,)", {})), HasSubstr("too large"));
  EXPECT_THAT(fault(npy_file<float>("<f4", "(4294967296, 4294967296)", {})), HasSubstr("too large"));
  EXPECT_THAT(fault(npy_file<float>("<f4", "(0, 4294967296, 4294967296)", {})), HasSubstr("too large"));
  EXPECT_THAT(fault(npy_file<float>("<f4", "(99999999999999999999,)", {})), HasSubstr("expected a .npy header"));
  EXPECT_THAT(fault(npy_file<float>("<f4", "(-1,)", {})), HasSubstr("expected a .npy header"));
}

TEST_F(NpyTest, RefusesHeadersThatDoNotParse) {
  for (const char* text :
       {"", "{", "{}", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", "{'descr': '<f4, 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}"}) {
    EXPECT_THAT(fault(npy_header(text) + bytes_of<float>({1})), HasSubstr("expected a .npy header")) << text;
  }
  std::string misplaced = std::string("\x93NUMPY\x01\0", 8) + '\x3a' + '\0' + npy_dictionary("<f8", "(1,)") + "\n";
  misplaced.resize(10 + 0x3a, ' ');
  EXPECT_THAT(fault(misplaced + bytes_of<double>({1})), HasSubstr("expected the data at a multiple of 8 bytes"));
}

TEST_F(NpyTest, MapsAndDoesNotCopy) {
  const auto path = dir_.write("a.npy", npy_file<float>("<f4", "(2,)", {1, 2}));
  const torch::Tensor tensor = NpyArray(path).tensor();
  // What is written to the file now is seen in the tensor, which outlives its array.
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  const float value = 42;
  std::fseek(file, -4, SEEK_END);
  std::fwrite(&value, sizeof value, 1, file);
  std::fclose(file);
  EXPECT_EQ(tensor[1].item<float>(), 42);
}

TEST_F(NpyTest, ReadsWhatNumpyWrites) {
  const std::string script =
      "import numpy as np, sys; d = sys.argv[1]; np.save(d + '/x.npy', np.arange(24, dtype=np.int16).reshape(2, 3, "
      "4)); "
      "np.save(d + '/f.npy', np.asfortranarray(np.ones((2, 3)))); np.save(d + '/o.npy', np.array([{}]), "
      "allow_pickle=True)";
  if (std::system(("python3 -c \"" + script + "\" " + dir_.path() + " 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "python3 with NumPy is not here";
  }
  EXPECT_TRUE(torch::equal(NpyArray(dir_.file("x.npy")).tensor(), torch::arange(24, torch::kInt16).reshape({2, 3, 4})));
  EXPECT_THAT(fault_of(dir_.file("f.npy")), HasSubstr("Fortran order"));
  EXPECT_THAT(fault_of(dir_.file("o.npy")), HasSubstr("Python objects"));
}

class MappedTensorDatasetTest : public NpyTest {
 protected:
  MappedTensorDataset open(const std::string& x, const std::string& y) const {
    return {dir_.write("X.npy", x), dir_.write("y.npy", y)};
  }

  std::string error_of(const std::string& x, const std::string& y) const {
    try {
      open(x, y);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }
};

std::vector<int16_t> numbers(size_t count) {
  std::vector<int16_t> values(count);
  std::iota(values.begin(), values.end(), int16_t{0});
  return values;
}

TEST_F(MappedTensorDatasetTest, GathersSamplesOfAnyTypeAndShapeInAnyOrderWithRepeats) {
  MappedTensorDataset dataset =
      open(npy_file("<i2", "(4, 2, 3)", numbers(24)), npy_file<double>("<f8", "(4,)", {10, 11, 12, 13}));
  EXPECT_EQ(dataset.size().value(), 4U);
  const auto batch = dataset.get_batch(std::vector<size_t>{3, 0, 3});
  const auto x = torch::arange(24, torch::kInt16).reshape({4, 2, 3});
  EXPECT_TRUE(torch::equal(batch.data, x.index_select(0, torch::tensor({3, 0, 3}))));
  EXPECT_TRUE(torch::equal(batch.target, torch::tensor({13.0, 10.0, 13.0}, torch::kFloat64)));
  EXPECT_EQ(dataset.get_batch(std::vector<size_t>{}).data.sizes(), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_TRUE(torch::equal(dataset.data(), x));
  EXPECT_EQ(dataset.targets().numel(), 4);
}

TEST_F(MappedTensorDatasetTest, TakesSamplesWithoutElements) {
  MappedTensorDataset dataset =
      open(npy_file<float>("<f4", "(3, 0)", {}), npy_file<int64_t>("<i8", "(3, 1)", {1, 2, 3}));
  const auto batch = dataset.get_batch(std::vector<size_t>{2, 1});
  EXPECT_EQ(batch.data.sizes(), (std::vector<int64_t>{2, 0}));
  EXPECT_TRUE(torch::equal(batch.target, torch::tensor({{3}, {2}}, torch::kInt64)));
}

TEST_F(MappedTensorDatasetTest, RefusesArraysThatDoNotAgreeAndScalars) {
  const auto x = npy_file("<i2", "(4, 2)", numbers(8));
  EXPECT_EQ(error_of(x, npy_file("<i2", "(3,)", numbers(3))),
            dir_.file("y.npy") + ": expected 4 rows as in " + dir_.file("X.npy") + ", got 3");
  EXPECT_EQ(error_of(x, npy_file("<i2", "()", numbers(1))),
            dir_.file("y.npy") + ": expected an array with a first dimension, got a scalar");
}

TEST_F(MappedTensorDatasetTest, AnIndexOutOfRangeIsAnErrorWithIndexAndSize) {
  MappedTensorDataset dataset = open(npy_file("<i2", "(4, 2)", numbers(8)), npy_file("<i2", "(4,)", numbers(4)));
  try {
    dataset.get_batch(std::vector<size_t>{0, 4});
    FAIL() << "no error";
  } catch (const c10::IndexError& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "MappedTensorDataset: expected an index below the size 4, got 4");
  }
}

TEST_F(MappedTensorDatasetTest, GivesTheSameBatchesWithWorkerProcessesWithoutACopy) {
  const MappedTensorDataset dataset =
      open(npy_file("<i2", "(100, 5)", numbers(500)), npy_file("<i2", "(100,)", numbers(100)));
  auto loader =
      make_data_loader<torch::data::samplers::SequentialSampler>(dataset, DataLoaderOptions(7).num_workers(2).seed(1));
  std::vector<torch::Tensor> data;
  for (auto& batch : *loader) data.push_back(batch.data.clone());  // kept, it would be the loader that copies
  EXPECT_TRUE(torch::equal(torch::cat(data), dataset.data()));
  EXPECT_EQ(loader->stats().copied_batches, 0U);
}

// A file of 1 TiB, all of it a hole, is there at once.
TEST_F(MappedTensorDatasetTest, OpensFilesThatAreLargerThanMemory) {
  const int64_t rows = int64_t{1} << 38;
  const auto x = dir_.write("X.npy", npy_header(npy_dictionary("<f4", "(" + std::to_string(rows) + ",)")));
  const auto y = dir_.write("y.npy", npy_header(npy_dictionary("|b1", "(" + std::to_string(rows) + ",)")));
  std::error_code error;
  std::filesystem::resize_file(x, std::filesystem::file_size(x) + static_cast<uintmax_t>(rows) * 4, error);
  if (!error) std::filesystem::resize_file(y, std::filesystem::file_size(y) + static_cast<uintmax_t>(rows), error);
  if (error) GTEST_SKIP() << "no sparse file of 1 TiB here: " << error.message();
  MappedTensorDataset dataset(x, y);
  const auto batch = dataset.get_batch(std::vector<size_t>{static_cast<size_t>(rows) - 1, 5});
  EXPECT_TRUE(torch::equal(batch.data, torch::zeros({2})));
  EXPECT_EQ(batch.target.scalar_type(), torch::kBool);
}

}  // namespace
}  // namespace torchfeed::datasets
