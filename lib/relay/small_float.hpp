// Floats of 8 and 16 bits to f32 and back, for sums on the host. What lib/cast.hpp has is taken
// from there.
#pragma once

#include <bit>
#include <cast.hpp>
#include <cstdint>

namespace tenon::relay {

/// A format with a sign, an exponent and kMantissa bits, in Bits. Its largest exponent means
/// infinity and NaN, or, when `kFinite`, is one more exponent of numbers, except that all ones are
/// NaN.
template <class Bits, unsigned kMantissa, unsigned kBias, bool kFinite>
struct SmallFloat {
  using Stored = Bits;
  static constexpr Bits kSign = static_cast<Bits>(1U << (8 * sizeof(Bits) - 1));
  static constexpr Bits kOnes = static_cast<Bits>(kSign - 1);
  static constexpr Bits kInfinity = static_cast<Bits>(kOnes >> kMantissa << kMantissa);
  static constexpr Bits kOverflow = kFinite ? kOnes : kInfinity;

  static float widen(Bits bits) noexcept {
    const auto magnitude = static_cast<std::uint32_t>(bits & kOnes);
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & kSign) << (32 - 8 * sizeof(Bits));
    const bool special = kFinite ? magnitude == kOnes : magnitude >= kInfinity;
    if (special) {
      const std::uint32_t nan = magnitude == kInfinity && !kFinite ? 0 : 0x400000U;
      return std::bit_cast<float>(sign | kF32Infinity | nan);
    }
    // The same digits with a smaller exponent, which one exact multiplication corrects, also where
    // there is no leading one.
    const auto small = std::bit_cast<float>(sign | magnitude << (23 - kMantissa));
    return small * std::bit_cast<float>((127U + 127U - kBias) << 23U);
  }

  /// To nearest even. What is too large becomes infinity, or NaN where there is none.
  static Bits narrow(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<Bits>(bits >> 31U ? kSign : 0);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > kF32Infinity) return static_cast<Bits>(sign | kOnes);
    constexpr std::uint32_t kShift = 23 - kMantissa;
    constexpr std::uint32_t kSmallestNormal = (127U + 1U - kBias) << 23U;
    std::uint32_t result = 0;
    if (magnitude >= kSmallestNormal) {
      const std::uint32_t rebiased = magnitude - ((127U - kBias) << 23U);
      const std::uint32_t odd = rebiased >> kShift & 1U;
      result = (rebiased + (1U << (kShift - 1)) - 1 + odd) >> kShift;
    } else {
      // Adding a number whose last digit is worth the smallest result makes the addition round.
      constexpr float kMagic = std::bit_cast<float>(kSmallestNormal + (kShift << 23U));
      const float sum = std::bit_cast<float>(magnitude) + kMagic;
      result = std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(kMagic);
    }
    return static_cast<Bits>(sign | (result < kOverflow ? result : kOverflow));
  }
};

using F8E5M2 = SmallFloat<std::uint8_t, 2, 15, false>;
using F8E4M3 = SmallFloat<std::uint8_t, 3, 7, true>;

struct F16 : SmallFloat<std::uint16_t, 10, 15, false> {
  static std::uint16_t narrow(float value) noexcept {
    return f16_from_f32(std::bit_cast<std::uint32_t>(value));
  }
};

struct Bf16 {
  using Stored = std::uint16_t;
  static float widen(std::uint16_t bits) noexcept {
    return std::bit_cast<float>(f32_from_bf16(bits));
  }
  static std::uint16_t narrow(float value) noexcept {
    return bf16_from_f32(std::bit_cast<std::uint32_t>(value));
  }
};

}  // namespace tenon::relay
