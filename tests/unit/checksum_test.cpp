// Checksums: what they must notice, what must not matter, and that they never change.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string_view>
#include <support/copy_cases.hpp>
#include <tenon/checksum.hpp>
#include <utility>
#include <vector>

#include "checksum_walk.hpp"

namespace tenon {
namespace {

std::uint64_t sum(std::string_view text) {
  return checksum(reinterpret_cast<const std::byte*>(text.data()), text.size());
}

// By a few lines of Python, from the header's words alone.
TEST(Checksum, NeverChanges) {
  EXPECT_EQ(sum(""), 0x0ULL);
  EXPECT_EQ(sum("a"), 0xC230A7246AE177AAULL);
  EXPECT_EQ(sum("12345678"), 0xE6C1A170431E4FC0ULL);
  EXPECT_EQ(sum("The quick brown fox jumps over the lazy dog"), 0x60D64DD7FEB8E891ULL);
}

TEST(Checksum, IsASumOverWords) {
  std::mt19937_64 random(1);
  const auto data = test::random_bytes(random, 8 * 100);
  std::uint64_t expected = detail::checksum_mix(data.size(), ~std::uint64_t{0});
  for (std::uint64_t i = 100; i-- > 0;) {  // in any order
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + i * 8, 8);
    expected += detail::checksum_mix(word, i);
  }
  EXPECT_EQ(checksum(data.data(), data.size()), expected);
}

TEST(Checksum, NoticesEveryFlippedBit) {
  std::mt19937_64 random(2);
  for (const std::uint64_t bytes : {1, 7, 8, 9, 100}) {
    auto data = test::random_bytes(random, bytes);
    const std::uint64_t before = checksum(data.data(), bytes);
    for (std::uint64_t bit = 0; bit < bytes * 8; ++bit) {
      const auto flip = static_cast<std::byte>(1U << bit % 8);
      data[bit / 8] ^= flip;
      EXPECT_NE(checksum(data.data(), bytes), before) << bytes << " " << bit;
      data[bit / 8] ^= flip;
    }
  }
}

TEST(Checksum, NoticesSwappedWordsAndLengths) {
  std::mt19937_64 random(3);
  std::vector<std::uint64_t> words(64);
  for (std::uint64_t& word : words) word = random();
  const auto* const data = reinterpret_cast<const std::byte*>(words.data());
  const std::uint64_t before = checksum(data, 512);
  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      std::swap(words[i], words[k]);
      EXPECT_NE(checksum(data, 512), before) << i << " " << k;
      std::swap(words[i], words[k]);
    }
  }
  const std::vector<std::byte> zeros(64);
  for (std::uint64_t bytes = 0; bytes < 64; ++bytes)
    EXPECT_NE(checksum(zeros.data(), bytes), checksum(zeros.data(), bytes + 1));
}

// --- The kernel's arithmetic ---

struct Plain {
  template <std::uint32_t kBytes>
  static walk::Word<kBytes> load(const std::byte* from) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(from) % kBytes, 0U);
    walk::Word<kBytes> word;
    std::memcpy(&word, from, kBytes);
    return word;
  }
};

TEST(ChecksumKernel, AddsUpToTheSame) {
  constexpr std::uint32_t kThreads = 256;
  std::mt19937_64 random(4);
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t offset = random() % 9;
    const std::uint64_t bytes = round < 40 ? static_cast<std::uint64_t>(round) : random() % 20000;
    const auto data = test::random_bytes(random, offset + bytes);
    const device::ChecksumItem item{data.data() + offset, bytes};
    const auto blocks = static_cast<std::uint32_t>(1 + random() % 33);
    std::uint64_t got = 0;
    for (std::uint32_t block = 0; block < blocks; ++block) {
      for (std::uint32_t thread = 0; thread < kThreads; ++thread)
        got += walk::checksum_share<Plain>(item, {block, blocks}, {thread, kThreads});
    }
    ASSERT_EQ(got, checksum(item.data, bytes)) << round;
  }
}

}  // namespace
}  // namespace tenon
