#include "pattern.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace tenon::cli {
namespace {

constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15U;  // odd, so all multiples of it differ
constexpr std::uint64_t kWord = sizeof(std::uint64_t);

// SplitMix64's finish: seeds that differ in one bit end far apart.
std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ x >> 30U) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27U) * 0x94D049BB133111EBU;
  return x ^ x >> 31U;
}

}  // namespace

Pattern::Pattern(std::uint64_t parameter, std::uint64_t version) noexcept
    : seed_(mix(mix(parameter + 1) + version)) {}

void Pattern::fill(std::uint64_t offset, std::byte* to, std::uint64_t bytes) const noexcept {
  const auto word = [&](std::uint64_t i) {
    const std::uint64_t x = seed_ + (offset / kWord + i) * kStep;
    return x ^ x >> 29U;
  };
  const std::uint64_t words = bytes / kWord;
  for (std::uint64_t i = 0; i < words; ++i) {
    const std::uint64_t value = word(i);
    std::memcpy(to + i * kWord, &value, kWord);
  }
  const std::uint64_t last = word(words);
  std::memcpy(to + words * kWord, &last, bytes % kWord);
}

std::uint64_t Pattern::count_wrong(std::uint64_t offset, const std::byte* from,
                                   std::uint64_t bytes) const noexcept {
  std::array<std::byte, 8192> expected;
  std::uint64_t wrong = 0;
  for (std::uint64_t at = 0; at < bytes; at += expected.size()) {
    const std::uint64_t n = std::min<std::uint64_t>(expected.size(), bytes - at);
    fill(offset + at, expected.data(), n);
    if (std::memcmp(expected.data(), from + at, n) == 0) continue;
    for (std::uint64_t i = 0; i < n; ++i) wrong += expected[i] != from[at + i] ? 1U : 0U;
  }
  return wrong;
}

}  // namespace tenon::cli
