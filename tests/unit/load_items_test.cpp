// The rows that fill a destination: their bytes against a loop over elements, their number, and the
// targets that are refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cast.hpp>
#include <copy_items.hpp>
#include <cstring>
#include <functional>
#include <load_items.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <support/copy_cases.hpp>
#include <support/support.hpp>
#include <tenon/plan.hpp>
#include <utility>
#include <vector>

namespace tenon {
namespace {

using test::kUntouched;
using test::thrown;
using Dims = std::vector<std::uint64_t>;

/// A layout over buckets of random bytes. Few parameters share a bucket.
struct Store {
  explicit Store(const std::vector<Parameter>& parameters)
      : layout(plan(parameters, {.bucket_bytes = 600})) {
    std::mt19937_64 random(parameters.size());
    for (std::size_t b = 0; b < layout.bucket_count(); ++b)
      buckets.push_back(test::random_bytes(random, layout.bucket_bytes(b)));
  }
  Layout layout;
  std::vector<std::vector<std::byte>> buckets;
};

std::uint64_t product(const Dims& dims) {
  return std::accumulate(dims.begin(), dims.end(), std::uint64_t{1}, std::multiplies<>());
}

// --- The bytes ---

std::uint64_t sliced_size(const Placement& part, const LoadTarget& target, std::size_t dim) {
  const bool cut = target.slice && target.slice->dim == dim;
  return part.shape[dim] / (cut ? target.slice->of : 1);
}

Dims naive_shape(const Store& store, const LoadTarget& target) {
  const Placement first = store.layout[target.parts[0]];
  Dims shape;
  for (std::size_t d = 0; d < first.shape.rank(); ++d)
    shape.push_back(sliced_size(first, target, d));
  for (std::size_t i = 1; i < target.parts.size(); ++i)
    shape[target.fuse_dim] += sliced_size(store.layout[target.parts[i]], target, target.fuse_dim);
  return shape;
}

/// What belongs at `index` of the destination.
const std::byte* source_of(const Store& store, const LoadTarget& target, Dims index) {
  std::size_t part = 0;
  const auto place = [&] { return store.layout[target.parts[part]]; };
  if (target.parts.size() > 1) {
    for (;; ++part) {
      const std::uint64_t size = sliced_size(place(), target, target.fuse_dim);
      if (index[target.fuse_dim] < size) break;
      index[target.fuse_dim] -= size;
    }
  }
  if (target.slice && !index.empty())
    index[target.slice->dim] +=
        target.slice->rank * sliced_size(place(), target, target.slice->dim);
  std::uint64_t element = 0;
  for (std::size_t d = 0; d < index.size(); ++d) element = element * place().shape[d] + index[d];
  return &store.buckets[place().bucket][place().offset + element * info(place().dtype).bytes];
}

template <class From, class To>
void convert(std::byte* to, const std::byte* from, To (*number)(From)) {
  From bits;
  std::memcpy(&bits, from, sizeof bits);
  const To converted = number(bits);
  std::memcpy(to, &converted, sizeof converted);
}

void put(std::byte* to, const std::byte* from, Dtype from_dtype, Dtype to_dtype) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, info(to_dtype).bytes);
  } else if (to_dtype == Dtype::f32) {
    convert<std::uint16_t, std::uint32_t>(to, from, f32_from_bf16);
  } else if (to_dtype == Dtype::bf16) {
    convert<std::uint32_t, std::uint16_t>(to, from, bf16_from_f32);
  } else {
    convert<std::uint32_t, std::uint16_t>(to, from, f16_from_f32);
  }
}

std::vector<std::byte> naive_load(const Store& store, const LoadTarget& target) {
  const Dtype from = store.layout[target.parts[0]].dtype;
  const Dtype to = target.dtype.value_or(from);
  const Dims shape = naive_shape(store, target);
  std::vector<std::byte> result(product(shape) * info(to).bytes);
  for (std::uint64_t element = 0; element < product(shape); ++element) {
    Dims index(shape.size());
    std::uint64_t rest = element;
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) index[d] = rest % shape[d];
    put(&result[element * info(to).bytes], source_of(store, target, index), from, to);
  }
  return result;
}

/// Copies as a load would; nothing may lie outside its bucket or count wrong.
void apply(const Store& store, const std::vector<LoadItem>& items) {
  for (const LoadItem& i : items) {
    const std::vector<std::byte>& bucket = store.buckets.at(i.bucket);
    CopyItem item = i.item;
    const auto offset = reinterpret_cast<std::uintptr_t>(item.from);
    ASSERT_EQ(item.end % item.row_bytes, 0U);
    const std::uint64_t last_row = (item.end / item.row_bytes - 1) * item.from_pitch;
    ASSERT_LE(offset + last_row + source_bytes(item.cast, item.row_bytes), bucket.size());
    item.from = bucket.data() + offset;
    copy_items({&item, 1});
  }
}

void expect_loads(const Store& store, LoadTarget target) {
  const std::vector<std::byte> expected = naive_load(store, target);
  ASSERT_EQ(target_shape(store.layout, target), naive_shape(store, target));
  ASSERT_EQ(target_bytes(store.layout, target), expected.size());
  constexpr std::size_t kGuard = 64;
  std::vector<std::byte> got(expected.size() + 2 * kGuard, kUntouched);
  target.to = got.data() + kGuard;
  const std::vector<LoadItem> items = load_items(store.layout, target);
  apply(store, items);
  ASSERT_TRUE(std::equal(expected.begin(), expected.end(), target.to));
  const auto untouched = std::count(got.begin(), got.begin() + kGuard, kUntouched) +
                         std::count(got.end() - kGuard, got.end(), kUntouched);
  ASSERT_EQ(untouched, 2 * kGuard);
  std::uint64_t bytes = 0;
  for (const LoadItem& i : items) {
    ASSERT_EQ(i.bucket, store.layout[target.parts.at(i.part)].bucket);
    bytes += i.item.end;
  }
  ASSERT_EQ(bytes, expected.size());  // no byte twice
}

/// At most one item a part, or where two dimensions interrupt the rows, as many as the shorter way
/// around needs.
void expect_few_items(const Store& store, LoadTarget target) {
  std::byte nowhere[8];
  target.to = nowhere;
  std::uint64_t most = 0;
  for (const std::size_t part : target.parts) {
    const Placement place = store.layout[part];
    const std::size_t d = target.slice ? target.slice->dim : target.fuse_dim;
    const std::size_t low = std::min<std::size_t>(d, target.fuse_dim);
    const std::size_t high = std::max<std::size_t>(d, target.fuse_dim);
    Dims before;
    Dims between;
    bool empty = false;
    for (std::size_t k = 0; k < place.shape.rank(); ++k) {
      const std::uint64_t size = sliced_size(place, target, k);
      empty |= size == 0;
      if (k < low) before.push_back(size);
      if (k >= low && k < high) between.push_back(size);
    }
    const bool simple = d == target.fuse_dim || target.parts.size() == 1;
    if (!empty) most += simple ? 1 : std::min(product(before), product(between));
  }
  const std::size_t items = load_items(store.layout, target).size();
  ASSERT_LE(items, most);
}

/// All shapes of a rank whose sizes are among these.
std::vector<Dims> shapes_of(std::size_t rank, const Dims& sizes) {
  std::vector<Dims> all{{}};
  for (std::size_t d = 0; d < rank; ++d) {
    std::vector<Dims> longer;
    for (Dims shape : all) {
      shape.push_back(0);
      for (const std::uint64_t size : sizes) {
        shape.back() = size;
        longer.push_back(shape);
      }
    }
    all = longer;
  }
  return all;
}

/// Every slice in 1 to 3 parts that the shape allows, and none.
std::vector<std::optional<Slice>> slices_of(const Dims& shape) {
  std::vector<std::optional<Slice>> all{std::nullopt};
  if (shape.empty()) all.emplace_back(Slice{});
  for (std::uint32_t d = 0; d < shape.size(); ++d) {
    for (std::uint32_t of = 1; of <= 3; ++of) {
      for (std::uint32_t rank = 0; rank < of && shape[d] % of == 0; ++rank)
        all.emplace_back(Slice{d, rank, of});
    }
  }
  return all;
}

/// Parameters that differ along `fuse_dim` by these factors.
std::vector<Parameter> fusible(const Dims& shape, std::size_t fuse_dim, const Dims& factors,
                               Dtype dtype) {
  std::vector<Parameter> all;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    all.push_back({std::to_string(i), dtype, shape});
    if (!shape.empty()) all.back().shape[fuse_dim] *= factors[i];
  }
  return all;
}

struct Types {
  Dtype from;
  std::optional<Dtype> to;
  [[nodiscard]] std::string name() const {
    return std::string(info(from).name) + "_to_" + std::string(info(to.value_or(from)).name);
  }
};
class LoadItems : public ::testing::TestWithParam<Types> {};

void expect_loads_all_slices(const Dims& shape, std::uint32_t fuse_dim, const Dims& factors,
                             const Types& types) {
  const Store store(fusible(shape, fuse_dim, factors, types.from));
  std::vector<std::size_t> parts(factors.size());
  std::iota(parts.rbegin(), parts.rend(), std::size_t{0});  // not in the layout's order
  for (const std::optional<Slice>& slice : slices_of(shape)) {
    const LoadTarget target{"it", parts, fuse_dim, slice, types.to};
    expect_loads(store, target);
    expect_few_items(store, target);
    ASSERT_FALSE(::testing::Test::HasFailure())
        << ::testing::PrintToString(shape) << " fused along " << fuse_dim << " by "
        << ::testing::PrintToString(factors) << ", slice "
        << (slice ? ::testing::PrintToString(Dims{slice->dim, slice->rank, slice->of}) : "none");
  }
}

TEST_P(LoadItems, CopyWhatALoopOverElementsWould) {
  for (std::size_t rank = 0; rank <= 4; ++rank) {
    for (const Dims& shape : shapes_of(rank, {0, 1, 2, 6})) {
      expect_loads_all_slices(shape, 0, {1}, GetParam());
      for (std::uint32_t fuse_dim = 0; fuse_dim < rank; ++fuse_dim) {
        for (const Dims& factors : {Dims{1, 2}, Dims{1, 2, 3}, Dims{2, 0, 1}})
          expect_loads_all_slices(shape, fuse_dim, factors, GetParam());
      }
      ASSERT_FALSE(HasFailure());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LoadItems,
                         ::testing::Values(Types{Dtype::u8, {}}, Types{Dtype::i64, Dtype::i64},
                                           Types{Dtype::f32, Dtype::bf16},
                                           Types{Dtype::bf16, Dtype::f32},
                                           Types{Dtype::f32, Dtype::f16}),
                         [](const auto& i) { return i.param.name(); });

TEST(LoadItemsTied, ReadWhereTheOriginalIs) {
  const Store store(
      {{"a", Dtype::u8, {500}}, {"b", Dtype::u8, {20, 20}}, {"c", Dtype::u8, {400}, "b"}});
  expect_loads(store, {"it", {2}, 0, Slice{0, 1, 2}});
  expect_loads(store, {"it", {2, 2, 2}, 0, Slice{0, 1, 4}});
}

// --- The number of items ---

/// Rows and row bytes of each item.
using Rows = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

Rows rows_of(const LoadTarget& target, const std::vector<Dims>& shapes) {
  std::vector<Parameter> parameters;
  for (const Dims& shape : shapes)
    parameters.push_back({std::to_string(parameters.size()), Dtype::f32, shape});
  Rows all;
  for (const LoadItem& i : load_items(plan(parameters, {}), target))
    all.emplace_back(i.item.end / i.item.row_bytes, i.item.row_bytes);
  return all;
}
TEST(LoadItemsCount, OneRowWhereBothSidesAreContiguous) {
  std::byte to[4];
  EXPECT_EQ(rows_of({"it", {0}, 0, {}, {}, to}, {{}}), (Rows{{1, 4}}));
  EXPECT_EQ(rows_of({"it", {0}, 2, {}, {}, to}, {{5, 6, 7}}), (Rows{{1, 840}}));
  EXPECT_EQ(rows_of({"it", {0}, 2, Slice{0, 1, 5}, {}, to}, {{5, 6, 7}}), (Rows{{1, 168}}));
  EXPECT_EQ(rows_of({"it", {0}, 0, Slice{1, 2, 3}, {}, to}, {{1, 6, 7}}), (Rows{{1, 56}}));
  EXPECT_EQ(rows_of({"it", {0, 1}, 0, {}, {}, to}, {{5, 6}, {2, 6}}), (Rows{{1, 120}, {1, 48}}));
  EXPECT_EQ(rows_of({"it", {0, 1}, 0, Slice{0, 0, 2}, {}, to}, {{4, 6}, {2, 6}}),
            (Rows{{1, 48}, {1, 24}}));
}

TEST(LoadItemsCount, OneItemOfRowsWhereOneDimensionInterrupts) {
  std::byte to[4];
  EXPECT_EQ(rows_of({"it", {0}, 0, Slice{1, 2, 3}, {}, to}, {{5, 6, 7}}), (Rows{{5, 56}}));
  EXPECT_EQ(rows_of({"it", {0}, 0, Slice{2, 2, 7}, Dtype::bf16, to}, {{5, 6, 7}}), (Rows{{30, 2}}));
  EXPECT_EQ(rows_of({"it", {0, 1}, 1, {}, {}, to}, {{5, 6}, {5, 1}}), (Rows{{5, 24}, {5, 4}}));
  EXPECT_EQ(rows_of({"it", {0, 1}, 1, Slice{1, 0, 2}, {}, to}, {{5, 6}, {5, 2}}),
            (Rows{{5, 12}, {5, 4}}));
  EXPECT_EQ(rows_of({"it", {0, 1}, 0, Slice{1, 0, 2}, {}, to}, {{5, 6}, {3, 6}}),
            (Rows{{5, 12}, {3, 12}}));
}

TEST(LoadItemsCount, AsManyAsTheShorterOfTwoDimensionsOtherwise) {
  std::byte to[4];
  const LoadTarget target{"it", {0, 0}, 1, Slice{2, 0, 2}, {}, to};
  EXPECT_EQ(rows_of(target, {{2, 5, 6}}), (Rows(4, {5, 12})));
  EXPECT_EQ(rows_of(target, {{5, 2, 6}}), (Rows(4, {5, 12})));
}

TEST(LoadItemsCount, NoneOfNothing) {
  EXPECT_EQ(rows_of({"it", {0}}, {{3, 0}}), Rows{});  // not even a destination is needed
  EXPECT_EQ(rows_of({"it", {0, 0}, 0, Slice{1, 2, 3}}, {{0, 3}}), Rows{});
  std::byte to[4];
  EXPECT_EQ(rows_of({"it", {0, 1}, 0, {}, {}, to}, {{0, 3}, {1, 3}}), (Rows{{1, 12}}));
}

// --- What is refused ---

class LoadItemsRefuse : public ::testing::Test {
 protected:
  /// Message of a target that all three functions refuse for the same reason.
  std::string all(const LoadTarget& target) {
    const std::string what = thrown([&] { (void)load_items(layout_, target); });
    EXPECT_EQ(thrown([&] { (void)target_shape(layout_, target); }), what);
    EXPECT_EQ(thrown([&] { (void)target_bytes(layout_, target); }), what);
    return what;
  }
  static std::string message(const std::string& why) {
    return "InvalidArgument: planning the load of 'it': " + why;
  }

  static constexpr std::uint64_t kHuge = 1ULL << 63U;
  static constexpr std::size_t kScalar = 0, kWide = 1, kTall = 2, kFlat = 3, kHalf = 4, kHole = 5,
                               kBig = 6;
  Layout layout_ = plan(std::vector<Parameter>{{"scalar", Dtype::f32, {}},
                                               {"wide", Dtype::f32, {4, 10}},
                                               {"tall", Dtype::f32, {5, 4}},
                                               {"flat", Dtype::f32, {4}},
                                               {"half", Dtype::f16, {4, 10}},
                                               {"hole", Dtype::f32, {kHuge, 0}},
                                               {"big", Dtype::u8, {1ULL << 46U}}},
                        {});
};

TEST_F(LoadItemsRefuse, PartsThatAreNone) {
  EXPECT_EQ(all({"it", {}}), message("it has no parts"));
  EXPECT_EQ(all({"it", {kWide, 7}}), message("there is no parameter 7 among 7"));
}

TEST_F(LoadItemsRefuse, NamelessOnesByTheNameOfTheirFirstPart) {
  EXPECT_EQ(all({"", {kWide}, 0, Slice{0, 2, 2}}),
            "InvalidArgument: planning the load of 'wide': there is no slice 2 of 2; ranks count "
            "from 0");
  EXPECT_EQ(all({"", {7}}),
            "InvalidArgument: planning the load of '': there is no parameter 7 among 7");
}

TEST_F(LoadItemsRefuse, SlicesThatAreNone) {
  EXPECT_EQ(all({"it", {kWide}, 0, Slice{0, 2, 2}}),
            message("there is no slice 2 of 2; ranks count from 0"));
  EXPECT_EQ(all({"it", {kScalar}, 0, Slice{0, 0, 0}}),
            message("there is no slice 0 of 0; ranks count from 0"));
  EXPECT_EQ(all({"it", {kWide}, 0, Slice{2, 0, 2}}),
            message("'wide' has no dimension 2 to slice; its rank is 2"));
  EXPECT_EQ(all({"it", {kWide}, 0, Slice{2, 0, 1}}),
            message("'wide' has no dimension 2 to slice; its rank is 2"));
  EXPECT_EQ(all({"it", {kScalar}, 0, Slice{0, 1, 2}}),
            message("'scalar' has no dimension 0 to slice; its rank is 0"));
}

TEST_F(LoadItemsRefuse, UnevenSlices) {
  EXPECT_EQ(all({"it", {kWide}, 0, Slice{1, 0, 4}}),
            message("dimension 1 of 'wide' has size 10, not a multiple of 4 slices"));
  EXPECT_EQ(all({"it", {kWide}, 0, Slice{0, 0, 8}}),
            message("dimension 0 of 'wide' has size 4, not a multiple of 8 slices"));
  const Layout two =
      plan(std::vector<Parameter>{{"even", Dtype::u8, {4}}, {"odd", Dtype::u8, {5}}}, {});
  EXPECT_EQ(thrown([&] {
              (void)load_items(two, {"it", {0, 1}, 0, Slice{0, 0, 2}});
            }),
            message("dimension 0 of 'odd' has size 5, not a multiple of 2 slices"));
}

TEST_F(LoadItemsRefuse, PartsThatDoNotFitEachOther) {
  EXPECT_EQ(all({"it", {kWide}, 2}),
            message("'wide' has no dimension 2 to fuse along; its rank is 2"));
  EXPECT_EQ(all({"it", {kScalar, kScalar}}),
            message("'scalar' has no dimension 0 to fuse along; its rank is 0"));
  EXPECT_EQ(all({"it", {kWide, kTall}, 1}),
            message("cannot fuse 'wide' and 'tall' along dimension 1: the size of dimension 0 is 4 "
                    "of one, 5 of the other"));
  EXPECT_EQ(all({"it", {kWide, kWide, kTall}, 0}),
            message("cannot fuse 'wide' and 'tall' along dimension 0: the size of dimension 1 is "
                    "10 of one, 4 of the other"));
  EXPECT_EQ(all({"it", {kWide, kFlat}, 1}),
            message("cannot fuse 'wide' and 'flat' along dimension 1: the rank is 2 of one, 1 of "
                    "the other"));
  EXPECT_EQ(all({"it", {kFlat, kScalar}}),
            message("cannot fuse 'flat' and 'scalar' along dimension 0: the rank is 1 of one, 0 of "
                    "the other"));
  EXPECT_EQ(all({"it", {kWide, kHalf}}),
            message("cannot fuse 'wide' and 'half' along dimension 0: the dtype is F32 of one, F16 "
                    "of the other"));
}

TEST_F(LoadItemsRefuse, CastsThatAreNone) {
  EXPECT_EQ(all({"it", {kHalf}, 0, {}, Dtype::f32}),
            message("there is no cast from F16, the dtype of 'half', to F32"));
  EXPECT_EQ(all({"it", {kWide}, 0, {}, Dtype::i32}),
            message("there is no cast from F32, the dtype of 'wide', to I32"));
  EXPECT_EQ(all({"it", {kWide}, 0, {}, static_cast<Dtype>(0)}),
            message("its dtype is not one of Tenon's"));
  EXPECT_EQ(all({"it", {kWide}, 0, {}, static_cast<Dtype>(16)}),
            message("its dtype is not one of Tenon's"));
}

TEST_F(LoadItemsRefuse, SizesBeyondSixtyThreeBits) {
  EXPECT_EQ(all({"it", {kHole, kHole}}),
            message("the sizes of its parts in dimension 0 add up to 2^64 or more"));
  EXPECT_EQ(all({"it", std::vector<std::size_t>(1U << 17U, kBig)}),
            message("it would have 2^63 bytes or more"));
  EXPECT_EQ(target_bytes(layout_, {"it", {kHole, kHole}, 1}), 0U);
  EXPECT_EQ(target_bytes(layout_, {"it", {kBig, kBig}}), 1ULL << 47U);
}

TEST_F(LoadItemsRefuse, DestinationsThatCannotBeWritten) {
  EXPECT_EQ(thrown([&] {
              (void)load_items(layout_, {"it", {kWide}});
            }),
            message("the destination is null"));
  alignas(8) std::byte to[8];
  LoadTarget target{"it", {kWide}, 0, {}, Dtype::bf16, to + 1};
  EXPECT_EQ(thrown([&] { (void)load_items(layout_, target); }),
            message("a cast needs a destination aligned to 2 bytes"));
  target.to = to + 2;
  EXPECT_EQ(load_items(layout_, target).size(), 1U);
  target.to = to + 1;
  target.dtype = Dtype::f32;
  EXPECT_EQ(load_items(layout_, target).size(), 1U);
}

}  // namespace
}  // namespace tenon
