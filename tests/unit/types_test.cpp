// Dtypes, shapes, sizes, modes and memory kinds.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <tenon/types.hpp>
#include <vector>

namespace tenon {
namespace {

using Dims = std::vector<std::uint64_t>;

std::optional<std::uint64_t> size_of(Dtype dtype, const Dims& dims) {
  return byte_size(dtype, Shape(dims.data(), dims.size()));
}

TEST(Dtypes, TheTableIsInTheOrderOfTheirNumbers) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kDtypes.size(); ++i) {
    const DtypeInfo& d = kDtypes[i];
    EXPECT_EQ(static_cast<std::size_t>(d.dtype), i + 1) << d.name;
    EXPECT_EQ(&info(d.dtype), &d);
    EXPECT_EQ(dtype_from_name(d.name), d.dtype);
    EXPECT_TRUE(names.insert(d.name).second) << d.name;
  }
}

TEST(Dtypes, NumbersAndSizesNeverChange) {
  const std::vector<std::pair<int, int>> expected = {{1, 1},  {2, 1},  {3, 1},  {4, 1},  {5, 1},
                                                     {6, 2},  {7, 2},  {8, 2},  {9, 2},  {10, 4},
                                                     {11, 4}, {12, 4}, {13, 8}, {14, 8}, {15, 8}};
  ASSERT_EQ(kDtypes.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(static_cast<int>(kDtypes[i].dtype), expected[i].first);
    EXPECT_EQ(kDtypes[i].bytes, expected[i].second) << kDtypes[i].name;
  }
  EXPECT_EQ(static_cast<int>(Dtype::bf16), 9);
  EXPECT_EQ(static_cast<int>(Dtype::f32), 12);
}

TEST(Dtypes, ABytesFromOutsideIsOneOrNot) {
  for (int value = 0; value < 256; ++value) {
    EXPECT_EQ(is_dtype(static_cast<std::uint8_t>(value)), value >= 1 && value <= 15) << value;
  }
}

TEST(Dtypes, UnknownNamesAreNothing) {
  for (const char* name : {"", "bf16", "BF16 ", "F8", "F128", "U"}) {
    EXPECT_FALSE(dtype_from_name(name)) << name;
  }
}

TEST(Shapes, AreViewsOfTheirDimensions) {
  const Dims dims = {3, 0, 7};
  const Shape shape(dims.data(), dims.size());
  EXPECT_EQ(shape.rank(), 3u);
  EXPECT_EQ(shape[2], 7u);
  EXPECT_EQ(Dims(shape.begin(), shape.end()), dims);
  EXPECT_EQ(Shape().rank(), 0u);
  EXPECT_EQ(Shape().begin(), Shape().end());
}

TEST(ByteSizes, AreTheProductTimesTheElement) {
  EXPECT_EQ(size_of(Dtype::f32, {2, 3, 5}), 120u);
  EXPECT_EQ(size_of(Dtype::f8_e4m3, {7}), 7u);
  EXPECT_EQ(size_of(Dtype::u64, {1, 1, 1, 1, 1, 1, 1, 2}), 16u);
}

TEST(ByteSizes, AScalarIsOneElement) {
  for (const DtypeInfo& d : kDtypes) EXPECT_EQ(size_of(d.dtype, {}), d.bytes) << d.name;
}

TEST(ByteSizes, ADimensionOfZeroIsNothingWhateverTheOthersAre) {
  EXPECT_EQ(size_of(Dtype::f64, {0}), 0u);
  EXPECT_EQ(size_of(Dtype::f64, {1ULL << 40U, 1ULL << 40U, 0}), 0u);
  EXPECT_EQ(size_of(Dtype::f64, {0, ~0ULL, ~0ULL}), 0u);
}

TEST(ByteSizes, FitSixtyThreeBitsOrAreRefused) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(size_of(Dtype::u8, {kMost}), kMost);
  EXPECT_FALSE(size_of(Dtype::u8, {kMost + 1}));
  EXPECT_FALSE(size_of(Dtype::u16, {kMost}));
  EXPECT_FALSE(size_of(Dtype::u8, {~0ULL}));
  EXPECT_EQ(size_of(Dtype::f64, {(1ULL << 60U) - 1}), ((1ULL << 60U) - 1) * 8);
  EXPECT_FALSE(size_of(Dtype::f64, {1ULL << 60U}));
}

TEST(ByteSizes, AProductThatWrapsToSomethingSmallIsRefused) {
  EXPECT_FALSE(size_of(Dtype::u8, {1ULL << 32U, 1ULL << 32U}));        // wraps to 0
  EXPECT_FALSE(size_of(Dtype::u8, {1ULL << 33U, 1ULL << 31U, 3}));     // wraps to 0
  EXPECT_FALSE(size_of(Dtype::u8, {(1ULL << 32U) + 1, 1ULL << 32U}));  // wraps to 2^32
  EXPECT_FALSE(size_of(Dtype::u8, {1ULL << 62U, 4, 1}));
}

TEST(Modes, HaveNamesAndOnlyTheirOwnNumbers) {
  EXPECT_STREQ(name_of(Mode::in_place), "in-place");
  EXPECT_STREQ(name_of(Mode::double_buffered), "double");
  EXPECT_STREQ(name_of(Mode::streaming), "streaming");
  EXPECT_STREQ(name_of(static_cast<Mode>(9)), "unknown");
  EXPECT_FALSE(is_mode(0));
  for (std::uint32_t mode = 1; mode <= 3; ++mode) EXPECT_TRUE(is_mode(mode));
  EXPECT_FALSE(is_mode(4));
  EXPECT_FALSE(is_mode(~0U));
}

TEST(MemoryKinds, HaveNamesAndOnlyTheirOwnNumbers) {
  EXPECT_STREQ(name_of(MemoryKind::host), "host");
  EXPECT_STREQ(name_of(MemoryKind::cuda), "cuda");
  EXPECT_EQ(static_cast<int>(MemoryKind::host), 1);
  EXPECT_EQ(static_cast<int>(MemoryKind::cuda), 2);
  EXPECT_FALSE(is_memory_kind(0));
  EXPECT_TRUE(is_memory_kind(1));
  EXPECT_TRUE(is_memory_kind(2));
  EXPECT_FALSE(is_memory_kind(3));
  EXPECT_FALSE(is_memory_kind(~0U));
}

}  // namespace
}  // namespace tenon
