// Copying items: casts against an independent reference, rows against loops over elements, and the
// copy kernel's arithmetic, run here thread by thread.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cast.hpp>
#include <cmath>
#include <copy_items.hpp>
#include <copy_walk.hpp>
#include <cstring>
#include <numeric>
#include <random>
#include <support/copy_cases.hpp>
#include <vector>

namespace tenon {
namespace {

using test::CopyCase;
using test::kUntouched;

// --- Casts ---

struct Narrow {
  int mantissa_bits;
  int exponent_bits;
  std::uint16_t (*convert)(std::uint32_t);
};
constexpr Narrow kBf16{7, 8, bf16_from_f32};
constexpr Narrow kF16{10, 5, f16_from_f32};

// The value of finite bits, exactly; those of infinity as if the exponents went on, which is where
// rounding overflows.
double value_of(const Narrow& type, std::uint32_t magnitude) {
  const int exponent = static_cast<int>(magnitude >> type.mantissa_bits);
  const std::uint32_t mantissa = magnitude & ((1U << type.mantissa_bits) - 1);
  const int bias = (1 << (type.exponent_bits - 1)) - 1;
  if (exponent == 0) return std::ldexp(mantissa, 1 - bias - type.mantissa_bits);
  return std::ldexp(mantissa + (1U << type.mantissa_bits), exponent - bias - type.mantissa_bits);
}

// Bisects for the neighbours below and above, then compares the distances.
std::uint16_t reference(const Narrow& type, float x) {
  const std::uint32_t infinity = ((1U << type.exponent_bits) - 1) << type.mantissa_bits;
  const std::uint32_t sign = std::signbit(x) ? 0x8000U : 0;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= value_of(type, infinity)) return static_cast<std::uint16_t>(sign | infinity);
  std::uint32_t low = 0;
  std::uint32_t high = infinity;  // value_of(low) <= magnitude < value_of(high)
  while (high - low > 1) {
    const std::uint32_t middle = (low + high) / 2;
    (value_of(type, middle) <= magnitude ? low : high) = middle;
  }
  const double down = magnitude - value_of(type, low);
  const double up = value_of(type, high) - magnitude;
  const bool take_high = up < down || (up == down && low % 2 == 1);
  return static_cast<std::uint16_t>(sign | (take_high ? high : low));
}

void expect_converts(const Narrow& type, std::uint32_t bits) {
  const auto x = std::bit_cast<float>(bits);
  const std::uint16_t got = type.convert(bits);
  if (!std::isnan(x)) {
    ASSERT_EQ(got, reference(type, x)) << std::hex << bits;
    return;
  }
  const std::uint32_t infinity = ((1U << type.exponent_bits) - 1) << type.mantissa_bits;
  ASSERT_GT(got & 0x7FFFU, infinity) << std::hex << bits;
  ASSERT_EQ(got >> 15U, bits >> 31U) << std::hex << bits;
}

class Narrowing : public ::testing::TestWithParam<Narrow> {};

TEST_P(Narrowing, IsRightAroundEveryNumberAndTie) {
  const Narrow& type = GetParam();
  const std::uint32_t infinity = ((1U << type.exponent_bits) - 1) << type.mantissa_bits;
  for (std::uint32_t i = 0; i < infinity; ++i) {
    const double here = value_of(type, i);
    const auto tie = static_cast<float>(here + (value_of(type, i + 1) - here) / 2);
    for (const float x : {static_cast<float>(here), tie}) {
      const auto bits = std::bit_cast<std::uint32_t>(x);
      for (const std::uint32_t near : {bits - 1, bits, bits + 1}) {
        if (near > kF32Infinity) continue;  // below zero
        expect_converts(type, near);
        expect_converts(type, near | 0x80000000U);
      }
    }
  }
}

TEST_P(Narrowing, IsRightForRandomBits) {
  std::mt19937 random(7);
  for (int i = 0; i < 1'000'000; ++i) expect_converts(GetParam(), random());
}

TEST_P(Narrowing, IsRightForTheExtremes) {
  for (const std::uint32_t bits :
       {0U, 1U, 0x7FFFFFU, 0x800000U, 0x33000000U, 0x33000001U, 0x38800000U, 0x387FFFFFU,
        0x477FEFFFU, 0x477FF000U, 0x7F7FFFFFU, 0x7F7F7FFFU, 0x7F7F8000U, 0x7F800000U, 0x7F800001U,
        0x7F80FFFFU, 0x7FBFFFFFU, 0x7FC00000U, 0x7FFFFFFFU}) {
    expect_converts(GetParam(), bits);
    expect_converts(GetParam(), bits | 0x80000000U);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Narrowing, ::testing::Values(kBf16, kF16),
                         [](const auto& i) { return i.param.exponent_bits == 8 ? "bf16" : "f16"; });

TEST(Widening, KeepsEveryBf16) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto wide = std::bit_cast<float>(f32_from_bf16(static_cast<std::uint16_t>(bits)));
    const std::uint32_t magnitude = bits & 0x7FFFU;
    if (magnitude > 0x7F80U) {
      EXPECT_TRUE(std::isnan(wide));
    } else if (magnitude == 0x7F80U) {
      EXPECT_TRUE(std::isinf(wide));
    } else {
      EXPECT_EQ(std::fabs(wide), value_of(kBf16, magnitude));
      EXPECT_EQ(bf16_from_f32(std::bit_cast<std::uint32_t>(wide)), bits);
    }
    EXPECT_EQ(std::signbit(wide), bits >= 0x8000U);
  }
}

// --- Rows ---

// Element by element, and no code in common with what is tested.
void naive_copy(const std::vector<CopyItem>& items) {
  std::uint64_t done = 0;
  for (const CopyItem& item : items) {
    const std::uint64_t size = item.cast == Cast::none ? 1 : item.cast == Cast::bf16_to_f32 ? 4 : 2;
    for (std::uint64_t at = 0; at < item.end - done; at += size) {
      const std::uint64_t row = at / item.row_bytes;
      const std::uint64_t column = at % item.row_bytes / size;
      std::byte* const to = item.to + row * item.to_pitch + column * size;
      const std::byte* const from = item.from + row * item.from_pitch;
      if (item.cast == Cast::none) {
        *to = from[column];
      } else if (item.cast == Cast::bf16_to_f32) {
        to[0] = to[1] = std::byte{0};
        std::memcpy(to + 2, from + column * 2, 2);
      } else {
        std::uint32_t bits = 0;
        std::memcpy(&bits, from + column * 4, 4);
        const std::uint16_t number =
            item.cast == Cast::f32_to_bf16 ? bf16_from_f32(bits) : f16_from_f32(bits);
        std::memcpy(to, &number, 2);
      }
    }
    done = item.end;
  }
}

TEST(CopyItems, CopiesRowsAndNothingElse) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    const CopyCase c = test::random_case(random, 1 + random() % 20, 3000);
    const auto source = test::random_bytes(random, c.from_bytes);
    std::vector<std::byte> expected(c.to_bytes, kUntouched);
    std::vector<std::byte> got(c.to_bytes, kUntouched);
    naive_copy(c.items(source.data(), expected.data()));
    copy_items(c.items(source.data(), got.data()));
    ASSERT_EQ(got, expected) << round;
  }
}

TEST(CopyItems, NothingIsNoWork) { copy_items({}); }

TEST(CopyItems, CastsBetweenTheDtypesItSays) {
  EXPECT_EQ(cast_between(Dtype::f32, Dtype::bf16), Cast::f32_to_bf16);
  EXPECT_EQ(cast_between(Dtype::f32, Dtype::f16), Cast::f32_to_f16);
  EXPECT_EQ(cast_between(Dtype::bf16, Dtype::f32), Cast::bf16_to_f32);
  EXPECT_EQ(cast_between(Dtype::i64, Dtype::i64), Cast::none);
  EXPECT_EQ(cast_between(Dtype::f16, Dtype::f32), std::nullopt);
  EXPECT_EQ(source_bytes(Cast::f32_to_f16, 6), 12U);
  EXPECT_EQ(source_bytes(Cast::bf16_to_f32, 12), 6U);
}

// --- The kernel's arithmetic ---

// What the kernel's loads and stores are to it: here they look at alignment and bounds, and count.
struct Watched {
  static inline const std::vector<std::byte>* source;
  static inline std::vector<std::byte>* target;
  static inline std::vector<std::uint8_t> writes;  // of each byte of the target
  static inline std::uint64_t accesses;
  static inline bool good;

  static bool inside(const std::byte* at, std::size_t bytes, const std::vector<std::byte>& arena) {
    return reinterpret_cast<std::uintptr_t>(at) % bytes == 0 && at >= arena.data() &&
           at + bytes <= arena.data() + arena.size();
  }
  template <class Holds>
  static std::uint32_t lanes_where(Holds holds) {
    std::uint32_t lanes = 0;
    for (std::uint32_t lane = 0; lane < walk::kWarp; ++lane) lanes += holds(lane) ? 1 : 0;
    return lanes;
  }
  template <std::uint32_t kBytes>
  static walk::Word<kBytes> load(const std::byte* from) {
    walk::Word<kBytes> word{};
    ++accesses;
    if (!inside(from, kBytes, *source)) return good = false, word;
    std::memcpy(&word, from, kBytes);
    return word;
  }
  template <std::uint32_t kBytes>
  static void store(std::byte* to, const walk::Word<kBytes>& word) {
    if (!inside(to, kBytes, *target)) return (void)(good = false);
    std::memcpy(to, &word, kBytes);
    for (std::uint32_t i = 0; i < kBytes; ++i)
      ++writes[static_cast<std::size_t>(to - target->data()) + i];
  }
};

// Runs all threads of all blocks of one of the two kernels. Returns the loads it took.
template <bool kRows>
std::uint64_t expect_copies(const CopyCase& c, walk::Deal deal, std::mt19937_64& random) {
  const auto source = test::random_bytes(random, c.from_bytes);
  std::vector<std::byte> expected(c.to_bytes, kUntouched);
  std::vector<std::byte> got(c.to_bytes, kUntouched);
  copy_items(c.items(source.data(), expected.data()));
  const std::vector<CopyItem> table = c.items(source.data(), got.data());
  Watched::source = &source;
  Watched::target = &got;
  Watched::writes.assign(got.size(), 0);
  Watched::accesses = 0;
  Watched::good = true;
  for (std::uint32_t block = 0; block < deal.blocks; ++block) {
    for (std::uint32_t thread = 0; thread < walk::kThreads; ++thread)
      walk::copy<kRows, Watched>(table.data(), static_cast<std::uint32_t>(table.size()), c.bytes(),
                                 {}, deal.tile, {block, deal.blocks}, thread);
  }
  EXPECT_TRUE(Watched::good) << "a misaligned access, or one out of bounds";
  EXPECT_EQ(got, expected);
  EXPECT_EQ(static_cast<std::uint64_t>(
                std::accumulate(Watched::writes.begin(), Watched::writes.end(), std::uint64_t{0})),
            c.bytes());
  EXPECT_LE(*std::max_element(Watched::writes.begin(), Watched::writes.end()), 1);
  return Watched::accesses;
}

// By the kernel that takes anything, and by that for whole rows when there are no others.
std::uint64_t expect_kernel_copies(const CopyCase& c, walk::Deal deal, std::mt19937_64& random) {
  const std::uint64_t loads = expect_copies<true>(c, deal, random);
  if (has_rows(c.items(nullptr, nullptr))) return loads;
  return std::max(loads, expect_copies<false>(c, deal, random));
}

TEST(CopyItems, AreAskedForRows) {
  const auto row = [](std::uint64_t bytes, std::uint64_t end, Cast cast = Cast::none) {
    CopyItem item{};
    item.row_bytes = bytes;
    item.end = end;
    item.cast = cast;
    return item;
  };
  const auto has = [](std::vector<CopyItem> items) { return has_rows(items); };
  EXPECT_FALSE(has({}));
  EXPECT_FALSE(has({row(10, 10)}));
  EXPECT_TRUE(has({row(5, 10)}));
  EXPECT_FALSE(has({row(10, 10), row(20, 30), row(30, 60, Cast::f32_to_bf16)}));
  EXPECT_TRUE(has({row(10, 10), row(10, 30)}));
  EXPECT_TRUE(has({row(10, 20), row(20, 40)}));
}

TEST(CopyKernel, CopiesEachByteOnceWhateverTheBlocks) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 400; ++round) {
    const std::uint64_t most = round % 4 == 0 ? 100 : round % 4 == 1 ? 40000 : 4000;
    const CopyCase c = test::random_case(random, 1 + random() % 12, most, round % 3 != 0);
    expect_kernel_copies(
        c, {walk::kGranule * (1 + random() % 8), 1 + static_cast<std::uint32_t>(random() % 40)},
        random);
    ASSERT_FALSE(HasFailure()) << round;
  }
}

TEST(CopyKernel, CopiesEveryAlignmentAndShortSize) {
  std::mt19937_64 random(3);
  for (std::uint64_t from = 0; from < 16; ++from) {
    for (std::uint64_t to = 0; to < 16; ++to) {
      CopyCase whole;
      for (std::uint64_t bytes = 1; bytes < 70; bytes += bytes < 35 ? 1 : 7)
        whole.add(Cast::none, bytes, 1, 0, 0, from, to);
      for (const Cast cast : {Cast::f32_to_bf16, Cast::f32_to_f16, Cast::bf16_to_f32})
        whole.add(cast, 1 + from + to, 1, 0, 0, from % 4, to % 8);
      expect_kernel_copies(whole, {walk::kGranule, 3}, random);
      CopyCase c;
      for (const Cast cast : {Cast::f32_to_bf16, Cast::f32_to_f16, Cast::bf16_to_f32})
        c.add(cast, 1 + from + to, 1 + to % 3, from % 3, to % 5, from % 4, to % 8);
      c.add(Cast::none, 9000 + to, 2, 3, 5, from, to);
      expect_kernel_copies(c, {walk::kGranule, 3}, random);
      ASSERT_FALSE(HasFailure()) << from << " " << to;
    }
  }
}

TEST(CopyKernel, CopiesLargeRowsWideAndManyShortRowsWide) {
  std::mt19937_64 random(4);
  CopyCase large;
  large.add(Cast::none, 3'000'000, 1, 0, 0, 5, 5);
  EXPECT_LE(expect_kernel_copies(large, {walk::kGranule * 64, 7}, random), 3'000'000 / 16 + 500);
  CopyCase rows;
  rows.add(Cast::none, 256, 3000, 256, 0, 0, 0);
  EXPECT_LE(expect_kernel_copies(rows, {walk::kGranule * 64, 5}, random), 3000 * 256 / 16 + 2000);
  CopyCase casts;
  casts.add(Cast::f32_to_bf16, 1'000'001, 1, 0, 0, 1, 1);
  EXPECT_LE(expect_kernel_copies(casts, {walk::kGranule * 64, 5}, random), 1'000'001 / 4 + 100);
}

template <bool kRows>
void expect_deal(std::uint64_t cost, std::uint32_t multiprocessors) {
  const walk::Deal deal = walk::deal_of<kRows>(cost, multiprocessors);
  EXPECT_EQ(deal.tile % walk::kGranule, 0U);
  EXPECT_LE(deal.tile, walk::kTileMax);
  EXPECT_LT((deal.blocks - 1) * deal.tile, cost) << "a block without a tile";
  if (cost > multiprocessors * walk::kTileMin) {
    EXPECT_GE(deal.blocks, multiprocessors);
  }
  if (!kRows) {
    EXPECT_GE(deal.blocks * deal.tile, cost) << "bytes without a block";
    return;
  }
  EXPECT_LE(deal.blocks, multiprocessors);
  if (cost > multiprocessors * walk::kTilesPerBlock * walk::kTileMin) {
    EXPECT_EQ(deal.blocks, multiprocessors);
    EXPECT_GE(cost / deal.tile, multiprocessors * walk::kTilesPerBlock)
        << "tiles too large to be even";
  }
}
TEST(CopyKernel, EveryBlockHasWorkAndNoneMuchMoreThanAnother) {
  for (const std::uint64_t cost :
       {1ULL, 4095ULL, 4096ULL, 1'000'000ULL, 200'000'000ULL, 61'064'245'248ULL}) {
    for (const std::uint32_t multiprocessors : {1U, 2U, 7U, 132U, 1000U}) {
      expect_deal<true>(cost, multiprocessors);
      expect_deal<false>(cost, multiprocessors);
    }
  }
}

TEST(CopyKernel, ATilesFirstItemIsFound) {
  for (const std::uint32_t count : {1U, 2U, 31U, 32U, 33U, 1023U, 1024U, 1025U, 20000U}) {
    std::vector<CopyItem> table(count);
    std::uint64_t end = 0;
    for (std::uint32_t i = 0; i < count; ++i) table[i].end = end += i < 100 ? 1 << 20 : 16;
    for (std::uint32_t item = 0; item < count; item += 1 + item / 7) {
      const std::uint64_t begin = (item == 0 ? 0 : table[item - 1].end) + item * walk::kItemCost;
      const std::uint64_t last = table[item].end + (item + 1) * walk::kItemCost - 1;
      EXPECT_EQ(walk::item_at<Watched>(table.data(), count, begin), item);
      EXPECT_EQ(walk::item_at<Watched>(table.data(), count, last), item);
    }
    EXPECT_EQ(walk::item_at<Watched>(table.data(), count, walk::total_cost(end, count)), count);
  }
}

TEST(CopyKernel, ACrowdOfTinyItemsIsDealtOut) {
  EXPECT_GE(walk::deal_of<false>(walk::total_cost(20000 * 16, 20000), 132).blocks, 132U);
  EXPECT_EQ(walk::deal_of<true>(walk::total_cost(20000 * 16, 20000), 132).blocks, 132U);
}

}  // namespace
}  // namespace tenon
