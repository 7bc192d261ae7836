// Conversions of single numbers, by their bits: no floating-point unit, no rounding mode and no
// compiler flag has a say, so that host and device give the same bits. See Cast.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TENON_HOST_DEVICE __host__ __device__
#else
#define TENON_HOST_DEVICE
#endif

namespace tenon {

inline constexpr std::uint32_t kF32Infinity = 0x7F800000U;

/// f32 to bf16. The low half is rounded off; a carry out of the largest finite number is infinity.
[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint16_t bf16_from_f32(std::uint32_t bits) noexcept {
  if ((bits & 0x7FFFFFFFU) > kF32Infinity)  // a NaN: quiet, as its payload may not survive
    return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint32_t f32_from_bf16(std::uint16_t bits) noexcept {
  return std::uint32_t{bits} << 16U;
}

/// f32 to f16.
[[nodiscard]] TENON_HOST_DEVICE constexpr std::uint16_t f16_from_f32(std::uint32_t bits) noexcept {
  constexpr std::uint32_t kOverflow = 0x477FF000U;        // 65520 and more round to infinity
  constexpr std::uint32_t kSmallestNormal = 0x38800000U;  // 2^-14
  constexpr std::uint32_t kUnderflow = 0x33000000U;       // 2^-25 and less round to zero
  constexpr std::uint32_t kRebias = (127U - 15U) << 23U;
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (magnitude > kF32Infinity) {
    half = 0x7E00U | ((magnitude >> 13U) & 0x3FFU);
  } else if (magnitude >= kOverflow) {
    half = 0x7C00U;
  } else if (magnitude >= kSmallestNormal) {
    const std::uint32_t rebiased = magnitude - kRebias;
    half = (rebiased + 0xFFFU + ((rebiased >> 13U) & 1U)) >> 13U;
  } else if (magnitude > kUnderflow) {  // a multiple of 2^-24
    const std::uint32_t shift = 126U - (magnitude >> 23U);
    const std::uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
    half = mantissa >> shift;
    const std::uint32_t rest = mantissa - (half << shift);
    const std::uint32_t tie = 1U << (shift - 1U);
    half += rest > tie || (rest == tie && (half & 1U) != 0) ? 1U : 0U;
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace tenon

#undef TENON_HOST_DEVICE
