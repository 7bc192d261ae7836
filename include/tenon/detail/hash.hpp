// The 64-bit hash of the byte format: of names in the name index, and of the layout as a whole.
//
// Four lanes of 8 bytes, multiply and fold. It finds damage and spreads names; it is no defence
// against somebody who builds collisions (the layout itself is validated, whatever its hash).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tenon::detail {

inline constexpr std::uint64_t kHashPrime = 0x9E3779B97F4A7C15U;

inline std::uint64_t fold(std::uint64_t lane, std::uint64_t word) noexcept {
  lane = (lane ^ word) * kHashPrime;
  return lane ^ (lane >> 32U);
}

/// Hash of `bytes` bytes at `data`; little-endian words, part of the byte format (docs/format.md).
[[nodiscard]] inline std::uint64_t hash64(const void* data, std::size_t bytes) noexcept {
  const auto* p = static_cast<const unsigned char*>(data);
  const auto word = [](const unsigned char* at, std::size_t n) {
    std::uint64_t w = 0;
    std::memcpy(&w, at, n);
    return w;
  };
  std::uint64_t lane[4] = {1, 2, 3, 4};
  std::size_t left = bytes;
  for (; left >= 32; left -= 32, p += 32) {
    for (std::size_t i = 0; i < 4; ++i) lane[i] = fold(lane[i], word(p + 8 * i, 8));
  }
  for (; left >= 8; left -= 8, p += 8) lane[0] = fold(lane[0], word(p, 8));
  if (left > 0) lane[1] = fold(lane[1], word(p, left));
  std::uint64_t h = bytes;
  for (const std::uint64_t l : lane) h = fold(h, l);
  return h;
}

}  // namespace tenon::detail
