#include "decode.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace tenon::cli {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// A float of few bits: sign, `exponent_bits`, `mantissa_bits`, biased as IEEE 754 does.
struct SmallFloat {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;  // E4M3 has none: only all ones is special, and that is a NaN
};

float decode_small(unsigned bits, const SmallFloat& format) {
  const unsigned exponent_mask = (1U << format.exponent_bits) - 1;
  const unsigned mantissa_mask = (1U << format.mantissa_bits) - 1;
  const unsigned mantissa = bits & mantissa_mask;
  const unsigned exponent = bits >> format.mantissa_bits & exponent_mask;
  const bool negative = (bits >> (format.mantissa_bits + format.exponent_bits) & 1U) != 0;
  const int bias = static_cast<int>(exponent_mask >> 1U);
  float magnitude = 0;
  if (exponent == exponent_mask && format.has_infinity) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == exponent_mask && mantissa == mantissa_mask && !format.has_infinity) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else {
    const unsigned hidden = exponent == 0 ? 0U : 1U << format.mantissa_bits;
    const int scale =
        (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias - format.mantissa_bits;
    magnitude = std::ldexp(static_cast<float>(hidden | mantissa), scale);
  }
  return negative ? -magnitude : magnitude;
}

}  // namespace

Value decode(Dtype dtype, const std::byte* at) {
  switch (dtype) {
    case Dtype::boolean:
      return load<std::uint8_t>(at) != 0;
    case Dtype::u8:
      return std::uint64_t{load<std::uint8_t>(at)};
    case Dtype::i8:
      return std::int64_t{load<std::int8_t>(at)};
    case Dtype::f8_e5m2:
      return decode_small(load<std::uint8_t>(at), {5, 2, true});
    case Dtype::f8_e4m3:
      return decode_small(load<std::uint8_t>(at), {4, 3, false});
    case Dtype::i16:
      return std::int64_t{load<std::int16_t>(at)};
    case Dtype::u16:
      return std::uint64_t{load<std::uint16_t>(at)};
    case Dtype::f16:
      return decode_small(load<std::uint16_t>(at), {5, 10, true});
    case Dtype::bf16:
      return std::bit_cast<float>(std::uint32_t{load<std::uint16_t>(at)} << 16U);
    case Dtype::i32:
      return std::int64_t{load<std::int32_t>(at)};
    case Dtype::u32:
      return std::uint64_t{load<std::uint32_t>(at)};
    case Dtype::f32:
      return load<float>(at);
    case Dtype::f64:
      return load<double>(at);
    case Dtype::i64:
      return load<std::int64_t>(at);
    case Dtype::u64:
      return load<std::uint64_t>(at);
  }
  return false;  // not reached: layouts are checked for known dtypes
}

std::string text_of(const Value& value) {
  return std::visit(
      [](auto v) -> std::string {
        if constexpr (std::is_floating_point_v<decltype(v)>) {
          if (std::isnan(v)) return "nan";  // the sign of a NaN says nothing
        }
        return fmt::format("{}", v);
      },
      value);
}

Json json_of(const Value& value) {
  return std::visit(
      [&](auto v) -> Json {
        if constexpr (std::is_floating_point_v<decltype(v)>) {
          if (!std::isfinite(v)) return text_of(value);
          return static_cast<double>(v);
        }
        return v;
      },
      value);
}

}  // namespace tenon::cli
