// How the checksum kernel divides an item: its words over the blocks that share it, and theirs over
// their threads. Apart from the kernel so that the tests can run it on a CPU.
#pragma once

#include <tenon/checksum.hpp>

#include "copy_walk.hpp"
#include "device_kernels.hpp"

#if defined(__CUDACC__)
#define TENON_DEVICE __device__
#else
#define TENON_DEVICE
#endif

namespace tenon::walk {

/// The index-th 8-byte word, read in pieces of kWidth bytes.
template <std::uint32_t kWidth, class Access>
[[nodiscard]] TENON_DEVICE std::uint64_t word_at(const std::byte* data,
                                                 std::uint64_t index) noexcept {
  std::uint64_t word = 0;
  for (std::uint32_t at = 0; at < 8; at += kWidth) {
    const auto piece = Access::template load<kWidth>(data + index * 8 + at);
    for (std::uint32_t i = 0; i < sizeof piece.part / sizeof piece.part[0]; ++i)
      word |= std::uint64_t{piece.part[i]} << (8 * (at + i * sizeof piece.part[0]));
  }
  return word;
}

/// The shares of a thread's words, for data aligned to `width` bytes, at most kWidth.
template <std::uint32_t kWidth, class Access>
[[nodiscard]] TENON_DEVICE std::uint64_t sum_words(const std::byte* data, std::uint64_t words,
                                                   std::uint64_t width, Place block,
                                                   Place thread) noexcept {
  std::uint64_t sum = 0;
  if (width == kWidth) {
    const std::uint64_t each = (words + block.count - 1) / block.count;
    const std::uint64_t end = smaller((block.index + std::uint64_t{1}) * each, words);
    for (std::uint64_t i = block.index * each + thread.index; i < end; i += thread.count)
      sum += detail::checksum_mix(word_at<kWidth, Access>(data, i), i);
  } else if constexpr (kWidth > 1) {
    sum = sum_words<kWidth / 2, Access>(data, words, width, block, thread);
  }
  return sum;
}

/// What one thread of one of the item's blocks adds to its checksum.
template <class Access>
[[nodiscard]] TENON_DEVICE std::uint64_t checksum_share(const device::ChecksumItem& item,
                                                        Place block, Place thread) noexcept {
  const std::uint64_t words = item.bytes / 8;
  std::uint64_t sum =
      sum_words<8, Access>(item.data, words, lowest_bit(address(item.data) | 8U), block, thread);
  if (block.index != 0 || thread.index != 0) return sum;
  sum += detail::checksum_mix(item.bytes, ~std::uint64_t{0});
  if (words * 8 == item.bytes) return sum;
  std::uint64_t last = 0;
  for (std::uint64_t i = words * 8; i < item.bytes; ++i)
    last |= std::uint64_t{Access::template load<1>(item.data + i).part[0]} << (i % 8 * 8);
  return sum + detail::checksum_mix(last, words);
}

}  // namespace tenon::walk

#undef TENON_DEVICE
