// Sums and means of elements in host memory, and the small floats that they need.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <relay/reduce.hpp>
#include <relay/small_float.hpp>
#include <support/support.hpp>

namespace tenon::test {
namespace {

using relay::ReduceOp;
using relay::Reduction;

template <class T>
std::vector<T> reduced(Dtype dtype, ReduceOp op, const std::vector<std::vector<T>>& sources) {
  std::vector<const std::byte*> pointers;
  for (const auto& source : sources)
    pointers.push_back(reinterpret_cast<const std::byte*>(source.data()));
  std::vector<T> output(sources[0].size());
  Reduction(dtype, op).apply(pointers, reinterpret_cast<std::byte*>(output.data()),
                             output.size() * sizeof(T));
  return output;
}

template <class T>
void expect_integers(Dtype dtype) {
  using Limits = std::numeric_limits<T>;
  SCOPED_TRACE(info(dtype).name);
  const std::vector<std::vector<T>> sources{{Limits::max(), 7, 1}, {1, 8, 0}, {0, 5, 1}};
  // Sums keep their low bits, as the processor's do; a mean is of the whole sum.
  const std::vector<T> sums{Limits::min(), 20, 2};
  EXPECT_EQ(reduced<T>(dtype, ReduceOp::sum, sources), sums);
  const std::vector<T> means =
      reduced<T>(dtype, ReduceOp::mean, {{Limits::max(), 7}, {Limits::max(), 8}});
  EXPECT_EQ(means[1], 7);
  if constexpr (sizeof(T) < sizeof(std::uint64_t)) {
    EXPECT_EQ(means[0], Limits::max());
  }
}

TEST(Reduce, Integers) {
  expect_integers<std::uint8_t>(Dtype::u8);
  expect_integers<std::int8_t>(Dtype::i8);
  expect_integers<std::uint16_t>(Dtype::u16);
  expect_integers<std::int16_t>(Dtype::i16);
  expect_integers<std::uint32_t>(Dtype::u32);
  expect_integers<std::int32_t>(Dtype::i32);
  expect_integers<std::uint64_t>(Dtype::u64);
  expect_integers<std::int64_t>(Dtype::i64);
}

TEST(Reduce, TheMeanOfNegativeIntegersIsCutOffTowardsZero) {
  EXPECT_EQ(reduced<std::int32_t>(Dtype::i32, ReduceOp::mean, {{-7}, {0}}), std::vector{-3});
  EXPECT_EQ(reduced<std::int8_t>(Dtype::i8, ReduceOp::mean, {{-128}, {-127}}),
            std::vector<std::int8_t>{-127});
}

TEST(Reduce, FloatsAreAddedInOrderOfTheSources) {
  // 1 is lost beside 2^24 and not when it comes after.
  EXPECT_EQ(reduced<float>(Dtype::f32, ReduceOp::sum, {{0x1p24F}, {1}, {-0x1p24F}}),
            std::vector{0.0F});
  EXPECT_EQ(reduced<float>(Dtype::f32, ReduceOp::sum, {{0x1p24F}, {-0x1p24F}, {1}}),
            std::vector{1.0F});
  EXPECT_EQ(reduced<double>(Dtype::f64, ReduceOp::mean, {{0x1p24, 3}, {1, 4}}),
            (std::vector{0x1p23 + 0.5, 3.5}));
}

TEST(Reduce, NegativeZeroStaysIt) {
  EXPECT_TRUE(std::signbit(reduced<float>(Dtype::f32, ReduceOp::sum, {{-0.0F}, {-0.0F}})[0]));
}

TEST(Reduce, SmallFloatsAreSummedInF32AndRoundedOnce) {
  // 256 + 1 is a tie in bf16: it would be 256 again.
  const auto bf16 = [](float x) { return relay::Bf16::narrow(x); };
  EXPECT_EQ(reduced<std::uint16_t>(Dtype::bf16, ReduceOp::sum, {{bf16(256)}, {bf16(1)}, {bf16(1)}}),
            std::vector{bf16(258)});
  EXPECT_EQ(reduced<std::uint16_t>(Dtype::bf16, ReduceOp::mean, {{bf16(3)}, {bf16(4)}, {bf16(4)}}),
            std::vector{bf16(11.0F / 3)});
  const auto f8 = [](float x) { return relay::F8E4M3::narrow(x); };
  EXPECT_EQ(reduced<std::uint8_t>(Dtype::f8_e4m3, ReduceOp::sum, {{f8(16)}, {f8(1)}, {f8(1)}}),
            std::vector{f8(18)});
}

TEST(Reduce, MoreElementsThanARunAndAnyAlignment) {
  std::mt19937 random(1);
  std::vector<std::byte> a(4 * 5003 + 1), b(a.size()), out(a.size());
  const auto put = [](std::vector<std::byte>& at, std::size_t i, std::uint32_t v) {
    std::memcpy(at.data() + 1 + 4 * i, &v, 4);
  };
  std::vector<std::uint32_t> expected(5003);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto x = static_cast<std::uint32_t>(random()), y = static_cast<std::uint32_t>(random());
    put(a, i, x);
    put(b, i, y);
    expected[i] = x + y;
  }
  const std::vector<const std::byte*> sources{a.data() + 1, b.data() + 1};
  Reduction(Dtype::u32, ReduceOp::sum).apply(sources, out.data() + 1, 4 * expected.size());
  EXPECT_EQ(std::memcmp(out.data() + 1, expected.data(), 4 * expected.size()), 0);
  Reduction(Dtype::u32, ReduceOp::sum).apply(sources, b.data() + 1, 4 * expected.size());
  EXPECT_EQ(std::memcmp(b.data() + 1, expected.data(), 4 * expected.size()), 0) << "in place";
}

TEST(Reduce, WhatHasNoSumIsRefusedByName) {
  EXPECT_THROWS(InvalidArgument, "BOOL", Reduction(Dtype::boolean, ReduceOp::sum));
  for (const DtypeInfo& one : kDtypes) {
    if (one.dtype == Dtype::boolean) continue;
    EXPECT_NO_THROW(Reduction(one.dtype, ReduceOp::sum));
  }
}

/// A format's value by its definition.
double defined(unsigned bits, int mantissa, int exponent_bits, bool finite) {
  const unsigned fraction = bits & ((1U << mantissa) - 1);
  const unsigned exponent = bits >> mantissa & ((1U << exponent_bits) - 1);
  const unsigned largest = (1U << exponent_bits) - 1;
  const double sign = (bits >> (mantissa + exponent_bits) & 1U) != 0 ? -1 : 1;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const bool all_ones = fraction == (1U << mantissa) - 1;
  if (exponent == largest && !(finite && !all_ones)) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
  return sign * std::ldexp(1 + std::ldexp(fraction, -mantissa), static_cast<int>(exponent) - bias);
}

/// Every value of a format is what it is defined to be, and comes back; so do the numbers between
/// two neighbours, to the nearer one or, from the middle, to the even one.
template <class Format>
void expect_format(int mantissa, int exponent_bits, bool finite) {
  using Bits = typename Format::Stored;
  const unsigned values = 1U << (8 * sizeof(Bits));
  for (unsigned i = 0; i < values; ++i) {
    const auto bits = static_cast<Bits>(i);
    const double expected = defined(i, mantissa, exponent_bits, finite);
    const float value = Format::widen(bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << i;
      EXPECT_TRUE(std::isnan(Format::widen(Format::narrow(value)))) << i;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << i;
    ASSERT_EQ(std::signbit(value), std::signbit(expected)) << i;
    ASSERT_EQ(Format::narrow(value), bits) << i;
    const double next = defined(i + 1, mantissa, exponent_bits, finite);
    if (i + 1 == values || !std::isfinite(expected) || !std::isfinite(next)) continue;
    const auto middle = static_cast<float>((expected + next) / 2);
    const auto up = static_cast<Bits>(i + 1);
    ASSERT_EQ(Format::narrow(middle), i % 2 == 0 ? bits : up) << i;
    ASSERT_EQ(Format::narrow(std::nextafterf(middle, value)), bits) << i;
    ASSERT_EQ(Format::narrow(std::nextafterf(middle, static_cast<float>(next))), up) << i;
  }
}

TEST(SmallFloat, EveryValueAndEveryNeighbourhood) {
  expect_format<relay::F8E5M2>(2, 5, false);
  expect_format<relay::F8E4M3>(3, 4, true);
  expect_format<relay::F16>(10, 5, false);
  expect_format<relay::Bf16>(7, 8, false);
}

TEST(SmallFloat, WhatIsTooLargeIsInfinityOrNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(relay::F8E5M2::widen(relay::F8E5M2::narrow(57344)), 57344);
  EXPECT_EQ(relay::F8E5M2::widen(relay::F8E5M2::narrow(61440)), kInfinity);  // a tie
  EXPECT_EQ(relay::F8E5M2::widen(relay::F8E5M2::narrow(-1e30F)), -kInfinity);
  EXPECT_EQ(relay::F8E4M3::widen(relay::F8E4M3::narrow(464)), 448);  // a tie
  EXPECT_TRUE(std::isnan(relay::F8E4M3::widen(relay::F8E4M3::narrow(465))));
  EXPECT_TRUE(std::isnan(relay::F8E4M3::widen(relay::F8E4M3::narrow(-kInfinity))));
  EXPECT_EQ(relay::F16::widen(relay::F16::narrow(65520)), kInfinity);
}

}  // namespace
}  // namespace tenon::test
