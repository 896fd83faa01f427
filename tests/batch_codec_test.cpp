// What goes into a slot comes out of it the same: every kind of tensor, and types of the user's own.
#include <torchfeed/plugin/data_loader.h>
#include <torchfeed/plugin/stack.h>

#include "support/loader_datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace torchfeed {
namespace testing {

/// A user's own batch type.
struct NamedBatch {
  torch::Tensor prices;
  int count = 0;
  std::vector<double> weights;
};

}  // namespace testing

template <>
struct BatchCodec<testing::NamedBatch> {
  static void encode(BatchWriter& writer, const testing::NamedBatch& batch) {
    writer.tensor(batch.prices);
    writer.value(batch.count);
    BatchCodec<std::vector<double>>::encode(writer, batch.weights);
  }
  static testing::NamedBatch decode(BatchReader& reader) {
    testing::NamedBatch batch;
    batch.prices = reader.tensor();
    batch.count = reader.value<int>();
    batch.weights = BatchCodec<std::vector<double>>::decode(reader);
    return batch;
  }
};

namespace {

using testing::FunctionDataset;
using testing::Sequential;

/// Makes `batch` in a worker and hands it to the trainer.
template <typename Batch>
Batch through_a_worker(std::function<Batch()> make, std::size_t budget = std::size_t{64} << 20) {
  auto loader = make_data_loader<Sequential>(
      FunctionDataset<Batch>(1, [make](const std::vector<std::size_t>&) { return make(); }),
      DataLoaderOptions(1).num_workers(1).shared_memory_budget(budget));
  auto batch = *loader->begin();
  return batch;
}

torch::Tensor tensor_through_a_worker(const std::function<torch::Tensor()>& make) {
  return through_a_worker<torch::Tensor>(make);
}

TEST(BatchCodec, CarriesTensorsOfEveryDtype) {
  for (const auto dtype :
       {torch::kUInt8, torch::kInt8, torch::kInt16, torch::kInt32, torch::kInt64, torch::kFloat16, torch::kBFloat16,
        torch::kFloat32, torch::kFloat64, torch::kBool, torch::kComplexFloat, torch::kComplexDouble}) {
    const auto make = [dtype] { return torch::arange(-6, 6).reshape({3, 4}).to(dtype); };
    const auto actual = tensor_through_a_worker(make);
    EXPECT_EQ(actual.scalar_type(), dtype);
    EXPECT_TRUE(torch::equal(actual, make())) << dtype;
  }
}

TEST(BatchCodec, CarriesEmptyScalarAndUndefinedTensors) {
  EXPECT_EQ(tensor_through_a_worker([] { return torch::empty({0, 5}); }).sizes(), (std::vector<std::int64_t>{0, 5}));
  const auto scalar = tensor_through_a_worker([] { return torch::tensor(2.5); });
  EXPECT_EQ(scalar.dim(), 0);
  EXPECT_EQ(scalar.item<double>(), 2.5);
  EXPECT_FALSE(tensor_through_a_worker([] { return torch::Tensor(); }).defined());
}

TEST(BatchCodec, CarriesVariantsAndOwningPointers) {
  using Value = std::variant<int, std::string, torch::Tensor>;
  EXPECT_EQ(std::get<0>(through_a_worker<Value>([] { return Value(3); })), 3);
  EXPECT_EQ(std::get<1>(through_a_worker<Value>([] { return Value("bar"); })), "bar");
  EXPECT_TRUE(
      torch::equal(std::get<2>(through_a_worker<Value>([] { return Value(torch::ones({3})); })), torch::ones({3})));
  auto loader = make_data_loader<Sequential>(
      FunctionDataset<std::unique_ptr<int>>(
          2,
          [](const std::vector<std::size_t>& indices) { return indices[0] == 0 ? std::make_unique<int>(8) : nullptr; }),
      DataLoaderOptions(1).num_workers(1));
  auto iterator = loader->begin();
  EXPECT_EQ(**iterator, 8);
  ++iterator;
  EXPECT_EQ(*iterator, nullptr);
}

/// A type without a codec.
struct Unsendable {
  explicit Unsendable(int) {}
};
static_assert(Sendable<std::map<std::string, std::vector<torch::data::TensorExample>>>);
static_assert(!Sendable<Unsendable> && !Sendable<std::vector<Unsendable>> && !Sendable<std::unique_ptr<Unsendable>>);
static_assert(!Sendable<std::pair<int, Unsendable>> && !Sendable<std::variant<int, Unsendable>>);
static_assert(!Sendable<torch::data::Example<Unsendable, torch::data::example::NoTarget>>);
static_assert(!Sendable<std::unique_ptr<float[]>> && !Sendable<torch::optional<Unsendable>>);

TEST(SamplesIn, CountsWhatSurelyAreSamples) {
  using loader::samples_in;
  EXPECT_EQ(samples_in(torch::zeros({3, 2})), 3U);
  EXPECT_EQ(samples_in(torch::data::Example<>(torch::zeros({4, 2}), torch::zeros({4}))), 4U);
  EXPECT_EQ(samples_in(std::vector<int>{1, 2}), 2U);
  EXPECT_EQ(samples_in(std::vector<torch::Tensor>{torch::zeros({9}), torch::zeros({9})}), std::nullopt);
  EXPECT_EQ(samples_in(std::map<std::string, torch::Tensor>{{"x", torch::zeros({9})}}), std::nullopt);
  EXPECT_EQ(samples_in(std::string("prices")), std::nullopt);
  EXPECT_EQ(samples_in(torch::tensor(1)), std::nullopt);
}

TEST(BatchCodec, RefusesTorchScriptsObjects) {
  EXPECT_THROW(through_a_worker<c10::IValue>(
                   [] { return c10::IValue(c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get())); }),
               c10::Error);
}

TEST(BatchCodec, CarriesTorchsOptional) {
  using Values = std::vector<torch::optional<std::int64_t>>;
  const auto values = through_a_worker<Values>([] { return Values{5, torch::nullopt}; });
  EXPECT_EQ(values.at(0).value(), 5);
  EXPECT_FALSE(values.at(1).has_value());
}

TEST(BatchCodec, CarriesTorchScriptsValuesWithTheirTensorsUncopied) {
  const auto make = [] {
    c10::impl::GenericDict dict(c10::StringType::get(), c10::TensorType::get());
    dict.insert("prices", torch::arange(5));
    auto inside = empty_batch({4}, torch::kInt64);
    inside.fill_(reinterpret_cast<std::int64_t>(inside.data_ptr()));
    return c10::IValue(c10::ivalue::Tuple::create(
        {c10::IValue(), 3, 2.5, "text", true, c10::List<std::int64_t>({1, 2}), dict, inside}));
  };
  const auto value = through_a_worker<c10::IValue>(make);
  const auto elements = value.toTuple()->elements().vec();  // a plain vector: GCC warns of the tuple's short form
  ASSERT_EQ(elements.size(), 8U);
  EXPECT_TRUE(elements[0].isNone());
  EXPECT_EQ(elements[1].toInt(), 3);
  EXPECT_EQ(elements[2].toDouble(), 2.5);
  EXPECT_EQ(elements[3].toStringRef(), "text");
  EXPECT_TRUE(elements[4].toBool());
  EXPECT_EQ(elements[5].toIntVector(), (std::vector<std::int64_t>{1, 2}));
  EXPECT_TRUE(torch::equal(elements[6].toGenericDict().at("prices").toTensor(), torch::arange(5)));
  const auto inside = elements[7].toTensor();
  EXPECT_EQ(inside[0].item<std::int64_t>(), reinterpret_cast<std::int64_t>(inside.data_ptr()));
}

TEST(BatchCodec, SendsViewsCompact) {
  const auto make = [] { return torch::arange(1 << 20).reshape({1024, 1024}).t().narrow(1, 3, 5); };
  const auto actual = tensor_through_a_worker(make);
  EXPECT_TRUE(actual.is_contiguous());
  EXPECT_TRUE(torch::equal(actual, make()));
  EXPECT_EQ(actual.storage().nbytes(), 1024 * 5 * sizeof(std::int64_t));
}

TEST(BatchCodec, SendsConjugateAndNegativeViewsByValue) {
  const auto make = [] { return torch::complex(torch::ones({3}), torch::arange(3).to(torch::kFloat)); };
  EXPECT_TRUE(torch::equal(tensor_through_a_worker([&] { return make().conj(); }), make().conj()));
  EXPECT_TRUE(torch::equal(tensor_through_a_worker([&] { return torch::imag(make().conj()); }),
                           torch::imag(make().conj()).clone()));
}

TEST(BatchCodec, CarriesRequiresGrad) {
  EXPECT_TRUE(tensor_through_a_worker([] { return torch::ones({2}).requires_grad_(); }).requires_grad());
  EXPECT_FALSE(tensor_through_a_worker([] { return torch::ones({2}); }).requires_grad());
}

TEST(BatchCodec, CarriesExamples) {
  using Example = torch::data::Example<>;
  const auto example = through_a_worker<Example>([] { return Example(torch::ones({2, 2}), torch::tensor(3)); });
  EXPECT_EQ(example.data.sum().item<float>(), 4);
  EXPECT_EQ(example.target.item<std::int64_t>(), 3);
  const auto without = through_a_worker<Example>([] { return Example(torch::ones({2, 2}), torch::Tensor()); });
  EXPECT_FALSE(without.target.defined());
}

TEST(BatchCodec, CarriesVectorsOfNumbersAndOfTensors) {
  using Tensors = std::vector<torch::Tensor>;
  const auto tensors = through_a_worker<Tensors>([] { return Tensors{torch::ones({1}), torch::zeros({2, 2})}; });
  ASSERT_EQ(tensors.size(), 2U);
  EXPECT_EQ(tensors[1].numel(), 4);
  using Numbers = std::vector<double>;
  EXPECT_EQ(through_a_worker<Numbers>([] { return Numbers{1.5, -2}; }), (Numbers{1.5, -2}));
  EXPECT_EQ(through_a_worker<Numbers>([] { return Numbers{}; }), Numbers{});
}

TEST(BatchCodec, CarriesContainersOfTheStandardLibraryNested) {
  using Nested = std::map<std::string, std::vector<std::pair<std::optional<int>, torch::Tensor>>>;
  const auto nested = through_a_worker<Nested>([] {
    return Nested{{"bars", {{1, torch::ones({2})}, {std::nullopt, torch::Tensor()}}}, {"none", {}}};
  });
  ASSERT_EQ(nested.size(), 2U);
  EXPECT_EQ(nested.at("bars")[0].first, 1);
  EXPECT_EQ(nested.at("bars")[0].second.sum().item<float>(), 2);
  EXPECT_FALSE(nested.at("bars")[1].first.has_value());
  EXPECT_FALSE(nested.at("bars")[1].second.defined());
  EXPECT_TRUE(nested.at("none").empty());

  using Tuple = std::tuple<std::array<int, 3>, std::string, std::unordered_map<int, bool>, double>;
  const Tuple tuple{{1, 2, 3}, std::string("a\0b", 3), {{7, true}}, 0.5};
  EXPECT_EQ(through_a_worker<Tuple>([tuple] { return tuple; }), tuple);
}

TEST(BatchCodec, CarriesExamplesWithoutATarget) {
  using Example = torch::data::TensorExample;
  EXPECT_EQ(through_a_worker<Example>([] { return Example(torch::ones({3})); }).data.sum().item<float>(), 3);
}

/// Rows that know their number, as examples of two kinds.
struct Rows : torch::data::datasets::Dataset<Rows> {
  torch::data::Example<> get(std::size_t index) override {
    const auto value = static_cast<float>(index);
    return {torch::full({16}, value), torch::tensor(value)};
  }
  torch::optional<std::size_t> size() const override { return 40; }
};

TEST(Stack, EqualsTorchDatasStack) {
  auto ours = make_data_loader<Sequential>(Rows().map(Stack<>()), DataLoaderOptions(8).num_workers(2));
  auto theirs =
      make_data_loader<Sequential>(Rows().map(torch::data::transforms::Stack<>()), DataLoaderOptions(8).num_workers(2));
  auto expected = theirs->begin();
  for (auto& batch : *ours) {
    EXPECT_TRUE(torch::equal(batch.data, expected->data));
    EXPECT_TRUE(torch::equal(batch.target, expected->target));
    ++expected;
  }
  EXPECT_EQ(ours->stats().batches, 5U);
}

TEST(Stack, WritesTheBatchToWhereTheTrainerReadsIt) {
  using Example = torch::data::Example<>;
  const auto batch = through_a_worker<Example>([] {
    auto stacked = Stack<>().apply_batch({Rows().get(1), Rows().get(2)});
    stacked.target = torch::tensor(reinterpret_cast<std::int64_t>(stacked.data.data_ptr()));
    return stacked;
  });
  EXPECT_EQ(batch.target.item<std::int64_t>(), reinterpret_cast<std::int64_t>(batch.data.data_ptr()));
  EXPECT_EQ(batch.data[1][15].item<float>(), 2);
}

TEST(Stack, RefusesExamplesOfDifferentSizes) {
  Stack<> stack;
  EXPECT_THROW(stack.apply_batch({{torch::ones({2}), torch::ones({})}, {torch::ones({3}), torch::ones({})}}),
               c10::Error);
  EXPECT_THROW(stack.apply_batch({}), c10::Error);
}

TEST(BatchCodec, CarriesATypeOfTheUsersOwn) {
  const auto batch = through_a_worker<testing::NamedBatch>([] {
    return testing::NamedBatch{torch::full({3}, 2.0), 17, {0.25, 0.75}};
  });
  EXPECT_EQ(batch.prices.sum().item<float>(), 6);
  EXPECT_EQ(batch.count, 17);
  EXPECT_EQ(batch.weights, (std::vector<double>{0.25, 0.75}));
}

TEST(BatchCodec, TellsWhatCannotTravel) {
  const auto error_of = [](const std::function<torch::Tensor()>& make) -> std::string {
    try {
      tensor_through_a_worker(make);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "nothing thrown";
  };
  EXPECT_THAT(error_of([] {
                return torch::ones({2, 2}).to_sparse();
              }),
              ::testing::HasSubstr("expected layout Strided, got Sparse"));
  EXPECT_THAT(error_of([] { return torch::quantize_per_tensor(torch::ones({2}), 0.1, 0, torch::kQInt8); }),
              ::testing::HasSubstr("expected a dtype that is not quantized, got QInt8"));
}

TEST(BatchCodec, RefusesABatchAboveTheBudgetAndTellsBothSizes) {
  constexpr std::size_t kBudget = std::size_t{4} << 20;
  try {
    through_a_worker<torch::Tensor>([] { return torch::zeros({8 << 20}, torch::kUInt8); }, kBudget);
    FAIL() << "nothing thrown";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what_without_backtrace(), ::testing::HasSubstr("shared_memory_budget is 4194304"));
    EXPECT_THAT(error.what_without_backtrace(), ::testing::ContainsRegex("got 83886[0-9][0-9] bytes or more"));
  }
}

TEST(BatchCodec, KeepsWhatTheDatasetWroteIntoEmptyBatchInPlaceAndCopiesTheRest) {
  using Example = torch::data::Example<>;
  const auto make = [] {
    auto data = empty_batch({4, 8});
    data.fill_(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data.data_ptr()) % 1000003));
    return Example(data.narrow(0, 1, 2), torch::arange(4));
  };
  const auto example = through_a_worker<Example>(make);
  // The narrowed part is contiguous and lies in the slot: it stays where it is, one row behind the whole.
  const auto address = reinterpret_cast<std::uintptr_t>(example.data.data_ptr()) - 8 * sizeof(float);
  EXPECT_EQ(example.data[0][0].item<float>(), static_cast<float>(address % 1000003));
  EXPECT_TRUE(torch::equal(example.target, torch::arange(4)));
}

/// The flags of the mapping that has `address` inside, as in /proc/self/smaps.
std::string flags_of_mapping(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      const auto at = reinterpret_cast<std::uintptr_t>(address);
      inside = begin <= at && at < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line + ' ';
    }
  }
  return "none";
}

TEST(EmptyBatch, AsksForHugePagesWhereALargeBatchIsOrdinaryMemory) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) GTEST_SKIP() << "the kernel has no huge pages";
  const auto middle_of = [](const torch::Tensor& batch) {
    return flags_of_mapping(static_cast<const char*>(batch.data_ptr()) + batch.nbytes() / 2);
  };
  EXPECT_THAT(middle_of(empty_batch({16, 1 << 20})), ::testing::HasSubstr(" hg "));
  EXPECT_THAT(middle_of(torch::empty({16, 1 << 20})), ::testing::Not(::testing::HasSubstr(" hg ")));
}

}  // namespace
}  // namespace torchfeed
