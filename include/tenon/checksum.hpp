// Checksums of parameters: 64 bits, in any order and in parallel, the same on host and device.
//
// The sum (mod 2^64) over the parameter's little-endian 8-byte words, the last one padded with
// zeros, of mix(word, index), plus mix(bytes, ~0). It finds damage; it is no defence against
// somebody who wants a collision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TENON_HOST_DEVICE __host__ __device__
#else
#define TENON_HOST_DEVICE
#endif

namespace tenon {
namespace detail {

/// One word's share: two rounds of multiply and shift, so that every bit of word and index counts.
TENON_HOST_DEVICE constexpr std::uint64_t checksum_mix(std::uint64_t word,
                                                       std::uint64_t index) noexcept {
  std::uint64_t x = word ^ ((index + 1) * 0x9E3779B97F4A7C15U);
  x = (x ^ (x >> 32U)) * 0xD6E8FEB86659FD93U;
  x = (x ^ (x >> 29U)) * 0xBF58476D1CE4E5B9U;
  return x ^ (x >> 32U);
}

}  // namespace detail

/// Checksum of `bytes` bytes at `data`, in host memory.
[[nodiscard]] inline std::uint64_t checksum(const std::byte* data, std::uint64_t bytes) noexcept {
  std::uint64_t sum = detail::checksum_mix(bytes, ~std::uint64_t{0});
  std::uint64_t i = 0;
  for (; (i + 1) * 8 <= bytes; ++i) {
    std::uint64_t word;
    std::memcpy(&word, data + i * 8, 8);
    sum += detail::checksum_mix(word, i);
  }
  if (i * 8 < bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i * 8, bytes - i * 8);
    sum += detail::checksum_mix(word, i);
  }
  return sum;
}

}  // namespace tenon

#undef TENON_HOST_DEVICE
